// SPDX-License-Identifier: GPL-2.0
/* A module to load and unload: that alone is what it is for. */
#include <linux/module.h>

static int __init ipirig_dummy_init(void)
{
	return 0;
}

static void __exit ipirig_dummy_exit(void)
{
}

module_init(ipirig_dummy_init);
module_exit(ipirig_dummy_exit);

MODULE_DESCRIPTION("A module that ipirig loads and unloads");
MODULE_LICENSE("GPL");
