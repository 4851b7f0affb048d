// SPDX-License-Identifier: GPL-2.0
/* Triggers that make the kernel flush its translations. */
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_wait.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include <asm/pgtable.h>
#include <asm/set_memory.h>

#include "internal.h"

/*
 * Physical space that is no RAM and no device in the rig's machine. It is mapped
 * and never touched.
 */
#define IPIRIG_HOLE		0xd1000000UL
/* Mappings tried until one lands where the one before it was. */
#define IPIRIG_HUGE_ATTEMPTS	8

/* A change of attributes in the direct map: never to be deferred. */
static void *cpa_pages;

static int ipirig_begin_cpa(const struct ipirig_trigger *req)
{
	cpa_pages = alloc_pages_exact(req->size * PAGE_SIZE, GFP_KERNEL);
	return cpa_pages ? 0 : -ENOMEM;
}

static int ipirig_change_cpa(const struct ipirig_trigger *req)
{
	int err = set_memory_uc((unsigned long)cpa_pages, req->size);

	return err ?: set_memory_wb((unsigned long)cpa_pages, req->size);
}

static void ipirig_end_cpa(struct ipirig_trigger *req)
{
	free_pages_exact(cpa_pages, req->size * PAGE_SIZE);
}

const struct ipirig_kind ipirig_set_memory = {
	.begin = ipirig_begin_cpa,
	.operate = ipirig_change_cpa,
	.end = ipirig_end_cpa,
	.max_size = IPIRIG_MAX_CPA_PAGES,
};

/* Attempts that freed no table. */
static u64 huge_misses;

static unsigned int ipirig_level(unsigned long addr)
{
	unsigned int level = PG_LEVEL_NONE;

	lookup_address(addr, &level);
	return level;
}

/*
 * Maps @phys, unmaps it and purges, so that the address is free again. Returns
 * the address, and at which level it was mapped.
 */
static void __iomem *ipirig_map_once(phys_addr_t phys, unsigned int *level)
{
	void __iomem *addr = ioremap(phys, PMD_SIZE);

	if (addr) {
		*level = ipirig_level((unsigned long)addr);
		iounmap(addr);
		vm_unmap_aliases();
	}
	return addr;
}

static int ipirig_begin_huge(const struct ipirig_trigger *req)
{
	huge_misses = 0;
	return IS_ENABLED(CONFIG_HAVE_ARCH_HUGE_VMAP) ? 0 : -EOPNOTSUPP;
}

/*
 * A mapping of misaligned space needs a page table, which stays when the mapping
 * goes. If the next mapping, of aligned space, is a huge one at the same address,
 * then pmd_free_pte_page() has freed that table.
 */
static int ipirig_free_table(const struct ipirig_trigger *req)
{
	unsigned int small, huge;
	void __iomem *first, *second;
	int attempt;

	for (attempt = 0; attempt < IPIRIG_HUGE_ATTEMPTS; attempt++) {
		first = ipirig_map_once(IPIRIG_HOLE + PAGE_SIZE, &small);
		second = ipirig_map_once(IPIRIG_HOLE, &huge);
		if (!first || !second)
			return -ENOMEM;
		if (huge != PG_LEVEL_2M)
			return -EOPNOTSUPP;
		if (first == second && small == PG_LEVEL_4K)
			return 0;
		huge_misses++;
	}
	return -EAGAIN;
}

static void ipirig_end_huge(struct ipirig_trigger *req)
{
	req->value = huge_misses;
}

const struct ipirig_kind ipirig_page_table_free = {
	.begin = ipirig_begin_huge,
	.operate = ipirig_free_table,
	.end = ipirig_end_huge,
};

/* Fewer pages than a huge mapping has: each operation makes small ones. */
static int ipirig_map_hole(const struct ipirig_trigger *req)
{
	void __iomem *addr = ioremap(IPIRIG_HOLE, req->size * PAGE_SIZE);

	if (!addr)
		return -ENOMEM;
	iounmap(addr);
	vm_unmap_aliases();
	return 0;
}

const struct ipirig_kind ipirig_ioremap = {
	.operate = ipirig_map_hole,
	.max_size = IPIRIG_MAX_IOREMAP_PAGES,
};

static int ipirig_begin_vmalloc_huge(const struct ipirig_trigger *req)
{
	huge_misses = 0;
	return IS_ENABLED(CONFIG_HAVE_ARCH_HUGE_VMALLOC) ? 0 : -EOPNOTSUPP;
}

/*
 * The kernel falls back to small pages where it finds no huge one: then the
 * mapping would be one like any other.
 */
static int ipirig_free_huge(const struct ipirig_trigger *req)
{
	unsigned long size = req->size * PMD_SIZE;
	unsigned int level;
	int attempt;
	char *addr;

	for (attempt = 0; attempt < IPIRIG_HUGE_ATTEMPTS; attempt++) {
		addr = vmalloc_huge(size, GFP_KERNEL);
		if (!addr)
			return -ENOMEM;
		level = ipirig_level((unsigned long)addr);
		WRITE_ONCE(addr[0], 1);
		WRITE_ONCE(addr[size - 1], 1);
		vfree(addr);
		vm_unmap_aliases();
		if (level == PG_LEVEL_2M)
			return 0;
		huge_misses++;
	}
	return -EOPNOTSUPP;
}

const struct ipirig_kind ipirig_vmalloc_huge = {
	.begin = ipirig_begin_vmalloc_huge,
	.operate = ipirig_free_huge,
	.end = ipirig_end_huge,
	.max_size = IPIRIG_MAX_HUGE_PAGES,
};

static void ipirig_nothing(struct work_struct *work)
{
}

/*
 * The stack of a dead task is freed by an RCU callback, which leaves the
 * unmapping to a work. Both are queued on the CPU where the task died, in order:
 * when a callback and a work that are queued there now have run, so have those.
 */
int ipirig_purge(void)
{
	struct work_struct work;

	if (!IS_ENABLED(CONFIG_VMAP_STACK))
		return -EOPNOTSUPP;

	wait_rcu_gp(call_rcu);
	INIT_WORK_ONSTACK(&work, ipirig_nothing);
	schedule_work(&work);
	flush_work(&work);
	destroy_work_on_stack(&work);
	vm_unmap_aliases();
	return 0;
}
