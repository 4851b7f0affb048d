/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What /dev/ipirig understands.
 *
 * guest/abi/src/module.rs says the same in Rust; a test compiles this header
 * and compares the two.
 */
#ifndef _IPIRIG_H
#define _IPIRIG_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Free in Documentation/userspace-api/ioctl/ioctl-number.rst up to 6.12. */
#define IPIRIG_IOC_MAGIC	0xe9

/* Most operations one call may ask for. */
#define IPIRIG_MAX_REPEAT	1000000
/* Most pages one round of vmalloc and vfree may ask for. */
#define IPIRIG_MAX_PAGES	4096
/* Most pages whose attributes one operation may change. */
#define IPIRIG_MAX_CPA_PAGES	512
/* Most huge pages that one operation may allocate. */
#define IPIRIG_MAX_HUGE_PAGES	8
/* Most pages of device memory that one operation may map. */
#define IPIRIG_MAX_IOREMAP_PAGES	256
/* Longest stay in the kernel. */
#define IPIRIG_MAX_STAY_MS	600000

/**
 * struct ipirig_move - put another page behind the alias
 * @word: what a read through the alias gives from now on; never 0
 * @attempts: mappings made until the alias had its address again
 * @reserved: 0
 */
struct ipirig_move {
	__u64 word;
	__u32 attempts;
	__u32 reserved;
};

/**
 * struct ipirig_probe - what the calling CPU sees
 * @alias: the word it reads through the alias; 0 if the last move failed
 * @branch: 1 if it takes the branch of an enabled key, else 0
 * @cpu: its number
 * @nmis: NMIs that the module claimed on it, modulo 2^32
 * @reserved: 0
 */
struct ipirig_probe {
	__u64 alias;
	__u32 branch;
	__u32 cpu;
	__u32 nmis;
	__u32 reserved;
};

/* What struct ipirig_trigger's kind may be; the Rust mirror is StormKind. */

/* Flip a key with 64 sites. Value: the sites that are enabled afterwards. */
#define IPIRIG_STATIC_KEY_MANY	1
/* Update a static call. Value: the sites, of 16, that call the new target. */
#define IPIRIG_STATIC_CALL	2
/* Make size pages of the direct map uncached, and cached again. Value: 0. */
#define IPIRIG_SET_MEMORY	3
/*
 * Have a page table freed by mapping a huge page in its place. Value: attempts
 * that freed none, because the second mapping got another address.
 */
#define IPIRIG_PAGE_TABLE_FREE	4
/* Flip a key with one site, in noinstr text. Value: the key, 0 or 1. */
#define IPIRIG_NOINSTR_KEY	5
/* Poke a NOP with itself. Value: its length, if it is still there, or 0. */
#define IPIRIG_ENTRY_TEXT_POKE	6
/*
 * Allocate size huge pages of vmalloc memory, touch and free them, and purge.
 * Value: allocations that were of small pages, and were made again.
 */
#define IPIRIG_VMALLOC_HUGE	15
/*
 * Flip a key with one site, which the probe looks at. Value: the key afterwards,
 * 0 or 1.
 */
#define IPIRIG_STATIC_KEY_FLIP	16
/* vmalloc size pages, touch and vfree them, and purge. Value: 0. */
#define IPIRIG_VUNMAP		17
/* Map size pages of physical space that is no RAM, unmap them, and purge. */
#define IPIRIG_IOREMAP		18

/**
 * struct ipirig_trigger - provoke one kind of operation
 * @count: operations wanted, 1 to IPIRIG_MAX_REPEAT
 * @done: operations done, also when the call fails half way
 * @value: says more about some kinds, see there
 * @kind: IPIRIG_STATIC_KEY_MANY or another of these; ENOTTY for a stranger
 * @size: 1 to IPIRIG_MAX_CPA_PAGES for IPIRIG_SET_MEMORY, 1 to
 *	IPIRIG_MAX_HUGE_PAGES for IPIRIG_VMALLOC_HUGE, 1 to IPIRIG_MAX_PAGES
 *	for IPIRIG_VUNMAP, 1 to IPIRIG_MAX_IOREMAP_PAGES for IPIRIG_IOREMAP;
 *	0 for the rest
 * @target: the NOP's address; the rest ignore it
 * @text_poke: the address of text_poke_bp(), for IPIRIG_ENTRY_TEXT_POKE
 * @text_mutex: the address of text_mutex, for the same
 *
 * EOPNOTSUPP: the kernel lacks what the kind needs.
 */
struct ipirig_trigger {
	__u64 count;
	__u64 done;
	__u64 value;
	__u32 kind;
	__u32 size;
	__u64 target;
	__u64 text_poke;
	__u64 text_mutex;
};

/**
 * struct ipirig_stay - stay in the kernel until let go
 * @limit_ms: leave with ETIMEDOUT after so long, 0 to IPIRIG_MAX_STAY_MS
 * @asleep: 0: awake, 1: asleep, so that the CPU may idle
 * @word: user address of a 32-bit word; if awake, leave when it is no longer
 *	  @seen. 0: none
 * @seen: see @word
 * @reserved: 0
 */
struct ipirig_stay {
	__u32 limit_ms;
	__u32 asleep;
	__u64 word;
	__u32 seen;
	__u32 reserved;
};

/**
 * struct ipirig_let_go - let all who stay go
 * @staying: how many there were
 * @reserved: 0
 */
struct ipirig_let_go {
	__u32 staying;
	__u32 reserved;
};

/**
 * struct ipirig_members - how many tasks take part in the relays of a CPU
 * @cpu: its number
 * @count: how many there are
 */
struct ipirig_members {
	__u32 cpu;
	__u32 count;
};

#define IPIRIG_MOVE	_IOWR(IPIRIG_IOC_MAGIC, 3, struct ipirig_move)
#define IPIRIG_PROBE	_IOR(IPIRIG_IOC_MAGIC, 4, struct ipirig_probe)
#define IPIRIG_TRIGGER	_IOWR(IPIRIG_IOC_MAGIC, 5, struct ipirig_trigger)
#define IPIRIG_STAY	_IOW(IPIRIG_IOC_MAGIC, 6, struct ipirig_stay)
#define IPIRIG_LET_GO	_IOR(IPIRIG_IOC_MAGIC, 7, struct ipirig_let_go)
/*
 * Have freed kernel stacks unmapped, and purge lazily freed vmalloc areas.
 * EOPNOTSUPP where stacks are no vmalloc areas.
 */
#define IPIRIG_PURGE	_IO(IPIRIG_IOC_MAGIC, 8)
/*
 * Take part in the relays of the one CPU that the task is bound to: sleep, and
 * look through the alias at each turn. Fails with EINTR when a signal comes.
 */
#define IPIRIG_JOIN	_IO(IPIRIG_IOC_MAGIC, 9)
/*
 * As IPIRIG_PROBE, and have each task that takes part on the CPU look as well,
 * one after the other, before this returns. alias is the first word that is not
 * what it should be, whoever read it.
 */
#define IPIRIG_RELAY	_IOR(IPIRIG_IOC_MAGIC, 10, struct ipirig_probe)
#define IPIRIG_MEMBERS	_IOWR(IPIRIG_IOC_MAGIC, 11, struct ipirig_members)

#endif /* _IPIRIG_H */
