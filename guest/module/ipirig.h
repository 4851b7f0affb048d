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

/* Most flips or rounds one call may ask for. */
#define IPIRIG_MAX_REPEAT	1000000
/* Most pages one round of the storm may ask for. */
#define IPIRIG_MAX_PAGES	4096

/**
 * struct ipirig_flip - flip the private static key
 * @count: flips wanted, 1 to IPIRIG_MAX_REPEAT
 * @done: flips done, also when the call fails half way
 * @enabled: the key afterwards, 0 or 1
 * @reserved: 0
 *
 * Each flip is one static_branch_enable() or static_branch_disable().
 */
struct ipirig_flip {
	__u64 count;
	__u64 done;
	__u32 enabled;
	__u32 reserved;
};

/**
 * struct ipirig_storm - map and unmap, with a purge each round
 * @rounds: rounds wanted, 1 to IPIRIG_MAX_REPEAT
 * @done: rounds done, also when the call fails half way
 * @pages: pages of each round, 1 to IPIRIG_MAX_PAGES
 * @reserved: 0
 */
struct ipirig_storm {
	__u64 rounds;
	__u64 done;
	__u32 pages;
	__u32 reserved;
};

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

#define IPIRIG_FLIP	_IOWR(IPIRIG_IOC_MAGIC, 1, struct ipirig_flip)
#define IPIRIG_STORM	_IOWR(IPIRIG_IOC_MAGIC, 2, struct ipirig_storm)
#define IPIRIG_MOVE	_IOWR(IPIRIG_IOC_MAGIC, 3, struct ipirig_move)
#define IPIRIG_PROBE	_IOR(IPIRIG_IOC_MAGIC, 4, struct ipirig_probe)

#endif /* _IPIRIG_H */
