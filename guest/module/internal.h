/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the module know of each other. */
#ifndef _IPIRIG_INTERNAL_H
#define _IPIRIG_INTERNAL_H

#include <linux/compiler_attributes.h>
#include <linux/jump_label.h>

#include "ipirig.h"

/**
 * struct ipirig_kind - one kind of trigger
 * @begin: checks the request and gets what it needs; may be NULL
 * @operate: one operation, in process context
 * @end: gives back what @begin got, and sets the request's value; may be NULL
 * @max_size: most that the request's size may be; the least is 1, or 0 if this is
 *
 * @end is called once if @begin succeeded, however the operations went. The
 * trigger lock is held: one trigger runs at a time.
 */
struct ipirig_kind {
	int (*begin)(const struct ipirig_trigger *req);
	int (*operate)(const struct ipirig_trigger *req);
	void (*end)(struct ipirig_trigger *req);
	u32 max_size;
};

extern const struct ipirig_kind ipirig_static_key_flip;
extern const struct ipirig_kind ipirig_vunmap;
extern const struct ipirig_kind ipirig_static_key_many;
extern const struct ipirig_kind ipirig_static_call;
extern const struct ipirig_kind ipirig_set_memory;
extern const struct ipirig_kind ipirig_page_table_free;
extern const struct ipirig_kind ipirig_vmalloc_huge;
extern const struct ipirig_kind ipirig_ioremap;
extern const struct ipirig_kind ipirig_noinstr_key;
extern const struct ipirig_kind ipirig_entry_text_poke;

/* Inline, so that a stack names the kind that flips. */
static __always_inline void ipirig_toggle(struct static_key_false *key)
{
	if (static_key_enabled(key))
		static_branch_disable(key);
	else
		static_branch_enable(key);
}

int ipirig_begin_key(const struct ipirig_trigger *req);
int ipirig_trigger(struct ipirig_trigger *req);
int ipirig_purge(void);
int ipirig_stay(const struct ipirig_stay *req);
u32 ipirig_let_go(void);
int ipirig_begin_probes(void);
void ipirig_end_probes(void);
int ipirig_move(struct ipirig_move *req);
int ipirig_probe(struct ipirig_probe *req);
u64 ipirig_alias_now(void);
void ipirig_init_relays(void);
int ipirig_join(void);
int ipirig_relay(struct ipirig_probe *req);
int ipirig_count_members(struct ipirig_members *req);

#endif /* _IPIRIG_INTERNAL_H */
