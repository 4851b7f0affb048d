// SPDX-License-Identifier: GPL-2.0
/* Keeps a task in the kernel, open to interrupts, until it is let go. */
#include <linux/atomic.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/processor.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "internal.h"

/* Turns between two looks at the clock. */
#define IPIRIG_STAY_TURNS	64

/* Grows by one each time all who stay are let go. */
static atomic_t releases = ATOMIC_INIT(0);
/* Tasks that stay. */
static atomic_t staying = ATOMIC_INIT(0);
/* Those of them that sleep. */
static DECLARE_WAIT_QUEUE_HEAD(sleepers);

/* Stays asleep: where nothing else is to run, the CPU idles. */
static int ipirig_sleep(int before, u32 limit_ms)
{
	long left = wait_event_killable_timeout(sleepers,
						atomic_read(&releases) != before,
						msecs_to_jiffies(limit_ms));

	if (left < 0)
		return -EINTR;
	return left ? 0 : -ETIMEDOUT;
}

/* Whether the word that @req names is no longer what it was; or -EFAULT. */
static int ipirig_word_changed(const struct ipirig_stay *req)
{
	u32 now;

	if (!req->word)
		return 0;
	if (get_user(now, (u32 __user *)(unsigned long)req->word))
		return -EFAULT;
	return now != req->seen;
}

/*
 * No lock is taken: another CPU may hold the trigger lock for as long as its
 * trigger waits for this CPU. cond_resched() lets RCU see a quiescent state, or
 * it would complain, and kick this CPU, after 21 seconds.
 */
int ipirig_stay(const struct ipirig_stay *req)
{
	int before = atomic_read(&releases);
	ktime_t limit;
	int err = 0;
	u32 turn;

	if (req->asleep > 1 || req->limit_ms > IPIRIG_MAX_STAY_MS ||
	    req->reserved)
		return -EINVAL;

	limit = ktime_add_ms(ktime_get(), req->limit_ms);
	atomic_inc(&staying);
	if (req->asleep) {
		err = ipirig_sleep(before, req->limit_ms);
		atomic_dec(&staying);
		return err;
	}
	for (turn = 1; atomic_read(&releases) == before; turn++) {
		if (turn % IPIRIG_STAY_TURNS == 0) {
			if (ktime_after(ktime_get(), limit)) {
				err = -ETIMEDOUT;
				break;
			}
			if (fatal_signal_pending(current)) {
				err = -EINTR;
				break;
			}
			err = ipirig_word_changed(req);
			if (err) {
				err = min(err, 0);
				break;
			}
			cond_resched();
		}
		cpu_relax();
	}
	atomic_dec(&staying);
	return err;
}

/* Lets all who stay go; returns how many they were. */
u32 ipirig_let_go(void)
{
	u32 count = atomic_read(&staying);

	atomic_inc(&releases);
	wake_up_all(&sleepers);
	return count;
}
