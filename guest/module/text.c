// SPDX-License-Identifier: GPL-2.0
/* Triggers that make the kernel patch its text. */
#include <linux/errno.h>
#include <linux/jump_label.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <asm/pgtable.h>

#include "internal.h"

int ipirig_begin_key(const struct ipirig_trigger *req)
{
	return IS_ENABLED(CONFIG_JUMP_LABEL) ? 0 : -EOPNOTSUPP;
}

/* A key with many sites: one flip patches all of them in one batch. */
static DEFINE_STATIC_KEY_FALSE(many_key);

/* @n is a hexadecimal digit's prefix, such as 0x1: 16 numbers start with it. */
#define IPIRIG_EACH_16(what, n)						\
	what(n##0) what(n##1) what(n##2) what(n##3)			\
	what(n##4) what(n##5) what(n##6) what(n##7)			\
	what(n##8) what(n##9) what(n##a) what(n##b)			\
	what(n##c) what(n##d) what(n##e) what(n##f)
#define IPIRIG_EACH_64(what)						\
	IPIRIG_EACH_16(what, 0x0) IPIRIG_EACH_16(what, 0x1)		\
	IPIRIG_EACH_16(what, 0x2) IPIRIG_EACH_16(what, 0x3)

/* No two are the same code, or the compiler could fold them into one. */
#define IPIRIG_KEY_SITE(n)						\
static noinline u32 ipirig_key_site_##n(void)				\
{									\
	return static_branch_unlikely(&many_key) ? 1 + (n) : 0;		\
}
IPIRIG_EACH_64(IPIRIG_KEY_SITE)

#define IPIRIG_KEY_SITE_NAME(n)	ipirig_key_site_##n,
static u32 (*const key_sites[])(void) = {
	IPIRIG_EACH_64(IPIRIG_KEY_SITE_NAME)
};

static int ipirig_flip_many(const struct ipirig_trigger *req)
{
	ipirig_toggle(&many_key);
	return 0;
}

static void ipirig_count_many(struct ipirig_trigger *req)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(key_sites); i++)
		if (key_sites[i]())
			req->value++;
}

const struct ipirig_kind ipirig_static_key_many = {
	.begin = ipirig_begin_key,
	.operate = ipirig_flip_many,
	.end = ipirig_count_many,
};

/* A key whose only site is in noinstr text: its pokes must never be deferred. */
static DEFINE_STATIC_KEY_FALSE(noinstr_key);

static noinstr bool ipirig_noinstr_branch(void)
{
	return static_branch_unlikely(&noinstr_key);
}

static int ipirig_flip_noinstr(const struct ipirig_trigger *req)
{
	ipirig_toggle(&noinstr_key);
	return 0;
}

static void ipirig_take_noinstr(struct ipirig_trigger *req)
{
	req->value = ipirig_noinstr_branch();
}

const struct ipirig_kind ipirig_noinstr_key = {
	.begin = ipirig_begin_key,
	.operate = ipirig_flip_noinstr,
	.end = ipirig_take_noinstr,
};

/* A static call with many sites, each of which is poked by itself. */
static noinline u32 ipirig_target_old(u32 site)
{
	return 0;
}

static noinline u32 ipirig_target_new(u32 site)
{
	return 1 + site;
}

DEFINE_STATIC_CALL(ipirig_call, ipirig_target_old);

#define IPIRIG_CALL_SITE(n)						\
static noinline u32 ipirig_call_site_##n(void)				\
{									\
	return static_call(ipirig_call)(n) ? 1 : 0;			\
}
IPIRIG_EACH_16(IPIRIG_CALL_SITE, 0x0)

#define IPIRIG_CALL_SITE_NAME(n) ipirig_call_site_##n,
static u32 (*const call_sites[])(void) = {
	IPIRIG_EACH_16(IPIRIG_CALL_SITE_NAME, 0x0)
};

static bool call_is_new;

static int ipirig_begin_call(const struct ipirig_trigger *req)
{
	/* Else a static call is a pointer, and an update no poke. */
	return IS_ENABLED(CONFIG_HAVE_STATIC_CALL) ? 0 : -EOPNOTSUPP;
}

static int ipirig_update_call(const struct ipirig_trigger *req)
{
	call_is_new = !call_is_new;
	if (call_is_new)
		static_call_update(ipirig_call, ipirig_target_new);
	else
		static_call_update(ipirig_call, ipirig_target_old);
	return 0;
}

static void ipirig_count_calls(struct ipirig_trigger *req)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(call_sites); i++)
		req->value += call_sites[i]();
}

const struct ipirig_kind ipirig_static_call = {
	.begin = ipirig_begin_call,
	.operate = ipirig_update_call,
	.end = ipirig_count_calls,
};

/*
 * A poke of a NOP in the kernel's own text with the same NOP. Neither the
 * function nor the mutex is exported: user space says where they are.
 *
 * While the poke lasts the NOP's first byte is INT3: the caller must choose one
 * that no CPU executes where it can't take a #BP.
 */
static void (*poke)(void *addr, const void *opcode, size_t len,
		    const void *emulate);
static struct mutex *poke_mutex;
static u8 nop[5];
static size_t nop_len;

static const u8 nop2[] = { 0x66, 0x90 };
static const u8 nop5[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };

/* Whether @addr is in the kernel image, and executable or else writable. */
static bool ipirig_in_image(u64 addr, bool exec)
{
	unsigned int level;
	pte_t *pte;

	if (addr < __START_KERNEL_map || addr >= MODULES_VADDR)
		return false;
	pte = lookup_address(addr, &level);
	if (!pte || !(pte_flags(*pte) & _PAGE_PRESENT))
		return false;
	if (exec)
		return !(pte_flags(*pte) & _PAGE_NX);
	return pte_flags(*pte) & _PAGE_RW;
}

static int ipirig_begin_poke(const struct ipirig_trigger *req)
{
	/* A function that nobody calls by address has no place to land on. */
	if (IS_ENABLED(CONFIG_CFI_CLANG) || IS_ENABLED(CONFIG_X86_KERNEL_IBT))
		return -EOPNOTSUPP;
	if (!req->text_poke || !req->text_mutex)
		return -EOPNOTSUPP;
	if (!ipirig_in_image(req->target, true) ||
	    !ipirig_in_image(req->target + sizeof(nop) - 1, true) ||
	    !ipirig_in_image(req->text_poke, true) ||
	    !ipirig_in_image(req->text_mutex, false))
		return -EINVAL;

	if (copy_from_kernel_nofault(nop, (void *)req->target, sizeof(nop)))
		return -EFAULT;
	if (!memcmp(nop, nop2, sizeof(nop2)))
		nop_len = sizeof(nop2);
	else if (!memcmp(nop, nop5, sizeof(nop5)))
		nop_len = sizeof(nop5);
	else
		return -EINVAL;

	poke = (void *)req->text_poke;
	poke_mutex = (void *)req->text_mutex;
	return 0;
}

static int ipirig_poke(const struct ipirig_trigger *req)
{
	mutex_lock(poke_mutex);
	poke((void *)req->target, nop, nop_len, NULL);
	mutex_unlock(poke_mutex);
	return 0;
}

/* Bytes that are still the NOP. */
static void ipirig_end_poke(struct ipirig_trigger *req)
{
	u8 now[sizeof(nop)];

	if (!copy_from_kernel_nofault(now, (void *)req->target, nop_len) &&
	    !memcmp(now, nop, nop_len))
		req->value = nop_len;
}

const struct ipirig_kind ipirig_entry_text_poke = {
	.begin = ipirig_begin_poke,
	.operate = ipirig_poke,
	.end = ipirig_end_poke,
};
