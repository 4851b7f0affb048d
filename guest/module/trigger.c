// SPDX-License-Identifier: GPL-2.0
/* Runs the triggers, each of which is an entry in a table. */
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

#include "internal.h"

static const struct ipirig_kind *const kinds[] = {
	[IPIRIG_STATIC_KEY_MANY] = &ipirig_static_key_many,
	[IPIRIG_STATIC_CALL] = &ipirig_static_call,
	[IPIRIG_SET_MEMORY] = &ipirig_set_memory,
	[IPIRIG_PAGE_TABLE_FREE] = &ipirig_page_table_free,
	[IPIRIG_NOINSTR_KEY] = &ipirig_noinstr_key,
	[IPIRIG_ENTRY_TEXT_POKE] = &ipirig_entry_text_poke,
	[IPIRIG_VMALLOC_HUGE] = &ipirig_vmalloc_huge,
	[IPIRIG_STATIC_KEY_FLIP] = &ipirig_static_key_flip,
	[IPIRIG_VUNMAP] = &ipirig_vunmap,
	[IPIRIG_IOREMAP] = &ipirig_ioremap,
};

int ipirig_trigger(struct ipirig_trigger *req)
{
	const struct ipirig_kind *kind;
	int err = 0;

	if (req->kind >= ARRAY_SIZE(kinds) || !kinds[req->kind])
		return -ENOTTY;
	kind = kinds[req->kind];
	if (!req->count || req->count > IPIRIG_MAX_REPEAT)
		return -EINVAL;
	if (req->size > kind->max_size || !req->size != !kind->max_size)
		return -EINVAL;

	req->value = 0;
	req->done = 0;
	if (kind->begin)
		err = kind->begin(req);
	if (err)
		return err;

	for (; req->done < req->count; req->done++) {
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		err = kind->operate(req);
		if (err)
			break;
		cond_resched();
	}
	if (kind->end)
		kind->end(req);
	return err;
}
