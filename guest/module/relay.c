// SPDX-License-Identifier: GPL-2.0
/* Takes a CPU through the address spaces of several tasks in one entry. */
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/list.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/spinlock.h>

#include "internal.h"

/* A task that takes part. It sleeps in the kernel between its turns. */
struct ipirig_member {
	struct list_head list;
	struct task_struct *task;
	bool turn;
};

/* All of it is for tasks that are bound to one CPU. */
struct ipirig_relay {
	/* Held for all below, and for the turns of members. */
	spinlock_t lock;
	struct list_head members;
	u32 count;
	/* Who began the relay that runs, or NULL. */
	struct task_struct *runner;
	bool finished;
	/* The last member is the next relay's first. */
	bool back;
	/* What the runner is told. */
	struct ipirig_probe seen;
	int err;
};

static DEFINE_PER_CPU(struct ipirig_relay, relays);

void ipirig_init_relays(void)
{
	struct ipirig_relay *relay;
	int cpu;

	for_each_possible_cpu(cpu) {
		relay = per_cpu_ptr(&relays, cpu);
		spin_lock_init(&relay->lock);
		INIT_LIST_HEAD(&relay->members);
	}
}

/* The calling task's relay, or NULL if it may run on several CPUs. */
static struct ipirig_relay *ipirig_own_relay(void)
{
	if (current->nr_cpus_allowed != 1)
		return NULL;
	return per_cpu_ptr(&relays, raw_smp_processor_id());
}

/* Gives the turn to who comes after @from; the lock is held. */
static void ipirig_pass_on(struct ipirig_relay *relay, struct list_head *from)
{
	struct list_head *to = relay->back ? from->prev : from->next;
	struct ipirig_member *next;

	if (to == &relay->members) {
		WRITE_ONCE(relay->finished, true);
		if (relay->runner)
			wake_up_process(relay->runner);
		return;
	}
	next = list_entry(to, struct ipirig_member, list);
	WRITE_ONCE(next->turn, true);
	wake_up_process(next->task);
}

/* Looks through the alias in the address space of the member whose turn it is. */
static void ipirig_take_turn(struct ipirig_relay *relay,
			     struct ipirig_member *self)
{
	struct ipirig_probe seen = {};
	int err = ipirig_probe(&seen);

	spin_lock(&relay->lock);
	if (err)
		relay->err = err;
	else if (relay->seen.alias == ipirig_alias_now())
		relay->seen.alias = seen.alias;
	self->turn = false;
	/* The next one wakes up to a CPU that this task is about to leave. */
	set_current_state(TASK_INTERRUPTIBLE);
	ipirig_pass_on(relay, &self->list);
	spin_unlock(&relay->lock);
}

/* Takes part in the relays of the CPU that the task is bound to, until a signal comes. */
int ipirig_join(void)
{
	struct ipirig_relay *relay = ipirig_own_relay();
	struct ipirig_member self = { .task = current };

	if (!relay)
		return -EINVAL;

	spin_lock(&relay->lock);
	list_add_tail(&self.list, &relay->members);
	relay->count++;
	set_current_state(TASK_INTERRUPTIBLE);
	spin_unlock(&relay->lock);

	while (!signal_pending(current)) {
		schedule();
		if (READ_ONCE(self.turn))
			ipirig_take_turn(relay, &self);
		else
			set_current_state(TASK_INTERRUPTIBLE);
	}
	__set_current_state(TASK_RUNNING);

	spin_lock(&relay->lock);
	if (self.turn)
		ipirig_pass_on(relay, &self.list);
	list_del(&self.list);
	relay->count--;
	spin_unlock(&relay->lock);
	return -EINTR;
}

/*
 * Has each member take its turn, from the first to the last and the next time
 * from the last to the first: those whose turn was last are those whose address
 * spaces the CPU still has something of in its TLB.
 */
int ipirig_relay(struct ipirig_probe *req)
{
	struct ipirig_relay *relay = ipirig_own_relay();
	int err;

	if (!relay)
		return -EINVAL;
	err = ipirig_probe(req);
	if (err)
		return err;

	spin_lock(&relay->lock);
	if (relay->runner) {
		spin_unlock(&relay->lock);
		return -EBUSY;
	}
	relay->runner = current;
	relay->finished = false;
	relay->seen = *req;
	relay->err = 0;
	set_current_state(TASK_KILLABLE);
	ipirig_pass_on(relay, &relay->members);
	spin_unlock(&relay->lock);

	while (!READ_ONCE(relay->finished) && !fatal_signal_pending(current)) {
		schedule();
		set_current_state(TASK_KILLABLE);
	}
	__set_current_state(TASK_RUNNING);

	spin_lock(&relay->lock);
	err = relay->finished ? relay->err : -EINTR;
	*req = relay->seen;
	relay->back = !relay->back;
	relay->runner = NULL;
	spin_unlock(&relay->lock);
	return err;
}

/* How many tasks take part on a CPU. */
int ipirig_count_members(struct ipirig_members *req)
{
	struct ipirig_relay *relay;

	if (req->cpu >= nr_cpu_ids || !cpu_possible(req->cpu))
		return -EINVAL;

	relay = per_cpu_ptr(&relays, req->cpu);
	spin_lock(&relay->lock);
	req->count = relay->count;
	spin_unlock(&relay->lock);
	return 0;
}
