// SPDX-License-Identifier: GPL-2.0
/*
 * The triggers whose outcome can be seen, and the probe that shows it.
 *
 * The triggers here make the kernel send the IPIs that can be deferred: text
 * patching through a static key, and kernel TLB flushes through vmalloc. The
 * probe shows what those left behind on the CPU that calls it. NMIs that nobody
 * else claims are claimed and counted. Further triggers are in trigger.c.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/jump_label.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>

#include <asm/nmi.h>

#include "internal.h"

/*
 * A page goes behind the alias again only after this many moves, so that a
 * CPU with a stale translation reads an old word, not the new one by luck.
 */
#define IPIRIG_ALIAS_PAGES	16
/* Mappings held while waiting for the alias's address; one page each. */
#define IPIRIG_ALIAS_ATTEMPTS	1024
/* Upper half of each word behind the alias: "ipir". The rest counts moves. */
#define IPIRIG_ALIAS_TAG	0x6970697200000000ULL

static DEFINE_STATIC_KEY_FALSE(ipirig_key);

static struct {
	/* Held for writing while nothing is mapped at @addr. */
	struct rw_semaphore lock;
	/* Where the alias lives, for good; mapped or not. */
	void *addr;
	bool mapped;
	u32 moves;
	struct page *pages[IPIRIG_ALIAS_PAGES];
} alias = {
	.lock = __RWSEM_INITIALIZER(alias.lock),
};

/* NMIs claimed on each CPU. */
static DEFINE_PER_CPU(u32, nmis);

/* A mapping that came out somewhere else than at the alias's address. */
struct ipirig_miss {
	struct list_head list;
	void *addr;
};

/* The only site of the key. Not inlined: one site is one patched address. */
static noinline bool ipirig_branch(void)
{
	return static_branch_unlikely(&ipirig_key);
}

static int ipirig_flip(const struct ipirig_trigger *req)
{
	ipirig_toggle(&ipirig_key);
	return 0;
}

static void ipirig_end_flips(struct ipirig_trigger *req)
{
	req->value = static_key_enabled(&ipirig_key);
}

const struct ipirig_kind ipirig_static_key_flip = {
	.begin = ipirig_begin_key,
	.operate = ipirig_flip,
	.end = ipirig_end_flips,
};

static int ipirig_map_and_unmap(const struct ipirig_trigger *req)
{
	u8 *area = vmalloc(array_size(req->size, PAGE_SIZE));
	u32 i;

	if (!area)
		return fatal_signal_pending(current) ? -EINTR : -ENOMEM;

	for (i = 0; i < req->size; i++) {
		WRITE_ONCE(area[i * PAGE_SIZE], 1);
		if (i % 512 == 511)
			cond_resched();
	}
	vfree(area);
	/* vfree() is lazy; this purges, and so flushes, in every round. */
	vm_unmap_aliases();
	return 0;
}

const struct ipirig_kind ipirig_vunmap = {
	.operate = ipirig_map_and_unmap,
	.max_size = IPIRIG_MAX_PAGES,
};

static u64 ipirig_alias_word(u32 moves)
{
	return IPIRIG_ALIAS_TAG | moves;
}

static void *ipirig_map(struct page *page)
{
	return vmap(&page, 1, VM_MAP, PAGE_KERNEL_RO);
}

/*
 * Map @page until it comes out at the alias's address. Misses stay mapped
 * meanwhile: each takes an address that would else be offered again.
 *
 * On the CPU that unmapped the alias this takes one attempt as a rule: up to
 * 6.8 the allocator is first-fit; since then freed areas return to a pool of
 * the CPU that allocated them.
 */
static int ipirig_map_at_alias(struct page *page, u32 *attempts)
{
	struct ipirig_miss *miss, *next;
	LIST_HEAD(misses);
	int err = -EADDRNOTAVAIL;
	void *addr;

	*attempts = 0;
	while (*attempts < IPIRIG_ALIAS_ATTEMPTS) {
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		++*attempts;
		miss = kmalloc(sizeof(*miss), GFP_KERNEL);
		addr = ipirig_map(page);
		if (!miss || !addr) {
			vunmap(addr);
			kfree(miss);
			err = -ENOMEM;
			break;
		}
		if (addr == alias.addr) {
			kfree(miss);
			err = 0;
			break;
		}
		miss->addr = addr;
		list_add(&miss->list, &misses);
		cond_resched();
	}

	list_for_each_entry_safe(miss, next, &misses, list) {
		vunmap(miss->addr);
		kfree(miss);
	}
	return err;
}

int ipirig_move(struct ipirig_move *req)
{
	struct page *page;
	int err;

	if (req->reserved)
		return -EINVAL;
	if (down_write_killable(&alias.lock))
		return -EINTR;

	if (alias.mapped) {
		vunmap(alias.addr);
		alias.mapped = false;
		/* Purge: the address is free, and flushed, only after this. */
		vm_unmap_aliases();
	}

	req->word = ipirig_alias_word(alias.moves + 1);
	page = alias.pages[(alias.moves + 1) % IPIRIG_ALIAS_PAGES];
	*(u64 *)page_address(page) = req->word;

	err = ipirig_map_at_alias(page, &req->attempts);
	if (!err) {
		alias.moves++;
		alias.mapped = true;
	}
	up_write(&alias.lock);

	if (err == -EADDRNOTAVAIL)
		pr_err("the alias's address did not come back in %u mappings; move it on the CPU that moved it before\n",
		       IPIRIG_ALIAS_ATTEMPTS);
	return err;
}

/*
 * Nothing in the rig's machine raises NMIs but the rig, from outside, to watch
 * the entry: an NMI that no other handler knows is one of those.
 */
static int ipirig_nmi(unsigned int type, struct pt_regs *regs)
{
	this_cpu_inc(nmis);
	return NMI_HANDLED;
}

/*
 * What register_nmi_handler() would make. Written out because a series about
 * NMI sources gives that macro one more argument.
 */
static struct nmiaction ipirig_nmi_action = {
	.list = LIST_HEAD_INIT(ipirig_nmi_action.list),
	.handler = ipirig_nmi,
	.name = KBUILD_MODNAME,
};

int ipirig_probe(struct ipirig_probe *req)
{
	/* Waiting would let another task, or an IPI, get in between. */
	if (!down_read_trylock(&alias.lock))
		return -EBUSY;

	preempt_disable();
	req->branch = ipirig_branch();
	req->alias = alias.mapped ? READ_ONCE(*(u64 *)alias.addr) : 0;
	req->cpu = smp_processor_id();
	req->nmis = this_cpu_read(nmis);
	preempt_enable();

	up_read(&alias.lock);
	return 0;
}

/* What a read through the alias must give while nobody moves it. */
u64 ipirig_alias_now(void)
{
	return alias.mapped ? ipirig_alias_word(alias.moves) : 0;
}

static void ipirig_free_alias(void)
{
	int i;

	if (alias.mapped)
		vunmap(alias.addr);
	for (i = 0; i < IPIRIG_ALIAS_PAGES; i++)
		if (alias.pages[i])
			__free_page(alias.pages[i]);
}

/* Maps the alias and claims NMIs. */
int ipirig_begin_probes(void)
{
	int i, err;

	for (i = 0; i < IPIRIG_ALIAS_PAGES; i++) {
		alias.pages[i] = alloc_page(GFP_KERNEL);
		if (!alias.pages[i]) {
			err = -ENOMEM;
			goto free;
		}
	}
	*(u64 *)page_address(alias.pages[0]) = ipirig_alias_word(0);
	alias.addr = ipirig_map(alias.pages[0]);
	if (!alias.addr) {
		err = -ENOMEM;
		goto free;
	}
	alias.mapped = true;

	err = __register_nmi_handler(NMI_UNKNOWN, &ipirig_nmi_action);
	if (!err)
		return 0;
free:
	ipirig_free_alias();
	return err;
}

/* Undoes ipirig_begin_probes(). */
void ipirig_end_probes(void)
{
	unregister_nmi_handler(NMI_UNKNOWN, ipirig_nmi_action.name);
	ipirig_free_alias();
}
