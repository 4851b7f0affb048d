// SPDX-License-Identifier: GPL-2.0
/*
 * Triggers and probes that user space has no handle for: the device by which
 * they are called. Waiting, pinning and judging are left to user space.
 *
 * Only symbols exported by every kernel from 6.1 on are used.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/uaccess.h>

#include "internal.h"

/* One trigger at a time, or counts would be shared out at random. */
static DEFINE_MUTEX(trigger_lock);

static long ipirig_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;
	union {
		struct ipirig_move move;
		struct ipirig_probe probe;
		struct ipirig_trigger trigger;
		struct ipirig_stay stay;
		struct ipirig_let_go let_go;
		struct ipirig_members members;
	} req = {};
	int err;

	switch (cmd) {
	case IPIRIG_PROBE:
		err = ipirig_probe(&req.probe);
		if (!err && copy_to_user(user, &req.probe, sizeof(req.probe)))
			err = -EFAULT;
		return err;
	case IPIRIG_RELAY:
		err = ipirig_relay(&req.probe);
		if (!err && copy_to_user(user, &req.probe, sizeof(req.probe)))
			err = -EFAULT;
		return err;
	case IPIRIG_JOIN:
		return ipirig_join();
	case IPIRIG_MEMBERS:
		if (copy_from_user(&req.members, user, sizeof(req.members)))
			return -EFAULT;
		err = ipirig_count_members(&req.members);
		if (!err && copy_to_user(user, &req.members, sizeof(req.members)))
			err = -EFAULT;
		return err;
	case IPIRIG_STAY:
		if (copy_from_user(&req.stay, user, sizeof(req.stay)))
			return -EFAULT;
		return ipirig_stay(&req.stay);
	case IPIRIG_LET_GO:
		req.let_go.staying = ipirig_let_go();
		if (copy_to_user(user, &req.let_go, sizeof(req.let_go)))
			return -EFAULT;
		return 0;
	case IPIRIG_PURGE:
		return ipirig_purge();
	case IPIRIG_MOVE:
	case IPIRIG_TRIGGER:
		break;
	default:
		return -ENOTTY;
	}

	if (copy_from_user(&req, user, _IOC_SIZE(cmd)))
		return -EFAULT;
	if (mutex_lock_killable(&trigger_lock))
		return -EINTR;
	if (cmd == IPIRIG_TRIGGER)
		err = ipirig_trigger(&req.trigger);
	else
		err = ipirig_move(&req.move);
	mutex_unlock(&trigger_lock);

	/* A failed call says how far it came. */
	if (copy_to_user(user, &req, _IOC_SIZE(cmd)))
		return -EFAULT;
	return err;
}

static const struct file_operations ipirig_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = ipirig_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice ipirig_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ipirig",
	.mode = 0600,
	.fops = &ipirig_fops,
};

static int __init ipirig_init(void)
{
	int err;

	ipirig_init_relays();
	err = ipirig_begin_probes();
	if (err)
		return err;
	err = misc_register(&ipirig_device);
	if (err)
		ipirig_end_probes();
	return err;
}

static void __exit ipirig_exit(void)
{
	misc_deregister(&ipirig_device);
	ipirig_end_probes();
}

module_init(ipirig_init);
module_exit(ipirig_exit);

MODULE_DESCRIPTION("Triggers and probes for ipirig");
MODULE_LICENSE("GPL");
