// SPDX-License-Identifier: GPL-2.0-only
/* The device of hostile.h. It is for machines that exist to be broken: anyone who opens it owns the kernel. */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kdebug.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/cacheflush.h>
#include "hostile.h"

static DEFINE_MUTEX(exec_lock);
static char *facts_text;
static int facts_len;

/* Whether an instruction of EXEC was undefined. */
static bool exec_undefined;

static int on_die(struct notifier_block *nb, unsigned long action, void *data)
{
	struct die_args *args = data;

	if (action != DIE_OOPS || !args->regs)
		return NOTIFY_DONE;
	if (args->regs->pc < (u64)hostile_exec_room ||
	    args->regs->pc >= (u64)hostile_exec_room + sizeof(hostile_exec_room))
		return NOTIFY_DONE;
	/* die() returns when a notifier says stop, and the exception then resumes where the registers say. */
	exec_undefined = true;
	args->regs->pc = (u64)hostile_exec_out;
	return NOTIFY_STOP;
}

static struct notifier_block die_block = { .notifier_call = on_die };

static s64 peek(void *dst, u64 from, size_t len)
{
	return len > HOSTILE_DATA ? -EINVAL : copy_from_kernel_nofault(dst, (void *)from, len);
}

/* The kernel's own function of this kind is not exported; the macro under it serves. */
static s64 poke(u64 to, const u8 *src, size_t len)
{
	if (len > HOSTILE_DATA)
		return -EINVAL;
	pagefault_disable();
	while (len >= 8 && !(to & 7)) {
		__put_kernel_nofault((void *)to, src, u64, fault);
		to += 8;
		src += 8;
		len -= 8;
	}
	while (len) {
		__put_kernel_nofault((void *)to, src, u8, fault);
		to++;
		src++;
		len--;
	}
	pagefault_enable();
	return 0;
fault:
	pagefault_enable();
	return -EFAULT;
}


static void issue(struct hostile_cmd *cmd)
{
	if (cmd->op == HOSTILE_SMC)
		hostile_smc(cmd->regs, cmd->arg[0]);
	else
		hostile_hvc(cmd->regs, cmd->arg[0]);
}

static void issue_on(void *data)
{
	struct hostile_cmd *cmd = data;
	unsigned long flags;

	/* As the kernel calls: nothing may come between a load of a vCPU's state and its use. */
	local_irq_save(flags);
	issue(cmd);
	local_irq_restore(flags);
}

static s64 call(struct hostile_cmd *cmd)
{
	if (cmd->cpu < 0) {
		issue_on(cmd);
		return 0;
	}
	return smp_call_function_single(cmd->cpu, issue_on, cmd, 1);
}

static s64 map_phys(u64 phys, bool device, pgprot_t prot, void **base, void **at)
{
	struct page *page;

	if (device) {
		*base = (void __force *)__ioremap_prot(phys & PAGE_MASK, PAGE_SIZE, prot);
	} else {
		if (!pfn_valid(PHYS_PFN(phys)))
			return -ENXIO;
		page = pfn_to_page(PHYS_PFN(phys));
		*base = vmap(&page, 1, VM_MAP, prot);
	}
	if (!*base)
		return -ENOMEM;
	*at = *base + offset_in_page(phys);
	return 0;
}

static s64 touch(struct hostile_cmd *cmd)
{
	u64 phys = cmd->arg[0], how = cmd->arg[1];
	bool device = cmd->arg[2];
	pgprot_t prot = device ? __pgprot(PROT_DEVICE_nGnRE) : PAGE_KERNEL;
	void *base, *at;
	s64 ret;

	ret = map_phys(phys, device, prot, &base, &at);
	if (ret)
		return ret;
	switch (how) {
	case 'r':
		ret = peek(&cmd->arg[3], (u64)at, 4);
		break;
	case 'w':
		/* Never changes a page that can be written: what is written is what was read. */
		ret = peek(&cmd->arg[3], (u64)at, 4);
		if (!ret)
			ret = poke((u64)at, (u8 *)&cmd->arg[3], 4);
		break;
	default:
		ret = -EINVAL;
	}
	if (device)
		iounmap((void __iomem *)base);
	else
		vunmap(base);
	return ret;
}

static s64 exec(struct hostile_cmd *cmd)
{
	u64 words = cmd->arg[0];
	struct page *pages[2];
	u32 *room;
	s64 ret = 0;

	if (!words || words >= ARRAY_SIZE(hostile_exec_room))
		return -EINVAL;
	/* The text is read-only where it runs, so it is written through another mapping; pages may be above 4 KiB. */
	pages[0] = vmalloc_to_page(hostile_exec_room);
	pages[1] = vmalloc_to_page((char *)hostile_exec_room + sizeof(hostile_exec_room) - 4);
	room = vmap(pages, pages[0] == pages[1] ? 1 : 2, VM_MAP, PAGE_KERNEL);
	if (!room)
		return -ENOMEM;
	mutex_lock(&exec_lock);
	room = (void *)room + offset_in_page(hostile_exec_room);
	memcpy(room, cmd->data, words * 4);
	room[words] = 0xd65f03c0; /* ret */
	caches_clean_inval_pou((u64)room, (u64)(room + words + 1));
	caches_clean_inval_pou((u64)hostile_exec_room, (u64)(hostile_exec_room + words + 1));
	exec_undefined = false;
	hostile_exec(cmd->regs, hostile_exec_room);
	if (exec_undefined)
		ret = -EILSEQ;
	mutex_unlock(&exec_lock);
	vunmap((void *)((u64)room & PAGE_MASK));
	return ret;
}

static s64 kvm_of(struct hostile_cmd *cmd)
{
	struct file *file = fget(cmd->arg[0]);

	if (!file)
		return -EBADF;
	cmd->arg[1] = (u64)file->private_data;
	fput(file);
	return 0;
}

static s64 facts(struct hostile_cmd *cmd)
{
	size_t n;

	if (cmd->arg[0] > facts_len)
		return -EINVAL;
	n = min_t(size_t, facts_len - cmd->arg[0], HOSTILE_DATA);
	memcpy(cmd->data, facts_text + cmd->arg[0], n);
	cmd->arg[1] = n;
	return 0;
}

static s64 run(struct hostile_cmd *cmd)
{
	void *va;

	switch (cmd->op) {
	case HOSTILE_HVC:
	case HOSTILE_SMC:
		return call(cmd);
	case HOSTILE_ALLOC:
		va = alloc_pages_exact(cmd->arg[0], GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN);
		if (!va)
			return -ENOMEM;
		cmd->arg[1] = (u64)va;
		cmd->arg[2] = virt_to_phys(va);
		return 0;
	case HOSTILE_FREE:
		free_pages_exact((void *)cmd->arg[0], cmd->arg[1]);
		return 0;
	case HOSTILE_PEEK:
		return peek(cmd->data, cmd->arg[0], cmd->arg[1]);
	case HOSTILE_POKE:
		return poke(cmd->arg[0], cmd->data, cmd->arg[1]);
	case HOSTILE_TOUCH:
		return touch(cmd);
	case HOSTILE_EXEC:
		return exec(cmd);
	case HOSTILE_KVM_OF:
		return kvm_of(cmd);
	case HOSTILE_FACTS:
		return facts(cmd);
	case HOSTILE_VA:
		cmd->arg[1] = (u64)__va(cmd->arg[0]);
		return 0;
	case HOSTILE_PA:
		cmd->arg[1] = __is_lm_address(cmd->arg[0]) ? __lm_to_phys(cmd->arg[0]) :
							      __kimg_to_phys(cmd->arg[0]);
		return 0;
	default:
		return -ENOSYS;
	}
}

static int hostile_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct hostile_cmd), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int hostile_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t hostile_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	struct hostile_cmd *cmd = file->private_data;

	if (len != sizeof(*cmd))
		return -EINVAL;
	if (copy_from_user(cmd, buf, len))
		return -EFAULT;
	cmd->ret = run(cmd);
	return len;
}

static ssize_t hostile_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	if (len != sizeof(struct hostile_cmd))
		return -EINVAL;
	return copy_to_user(buf, file->private_data, len) ? -EFAULT : len;
}

/* User space gets any physical page at the offset of that address, with whatever permissions it asks for. */
static int hostile_mmap(struct file *file, struct vm_area_struct *vma)
{
	return remap_pfn_range(vma, vma->vm_start, vma->vm_pgoff, vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

static const struct file_operations hostile_fops = {
	.owner = THIS_MODULE,
	.open = hostile_open,
	.release = hostile_release,
	.read = hostile_read,
	.write = hostile_write,
	.mmap = hostile_mmap,
};

static struct miscdevice hostile_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hostile",
	.fops = &hostile_fops,
	.mode = 0600,
};

static int __init hostile_init(void)
{
	const size_t room = 16384;
	int ret;

	facts_text = kmalloc(room, GFP_KERNEL);
	if (!facts_text)
		return -ENOMEM;
	facts_len = hostile_facts(facts_text, room);
	ret = register_die_notifier(&die_block);
	if (!ret)
		ret = misc_register(&hostile_misc);
	if (ret) {
		unregister_die_notifier(&die_block);
		kfree(facts_text);
	}
	return ret;
}

static void __exit hostile_exit(void)
{
	misc_deregister(&hostile_misc);
	unregister_die_notifier(&die_block);
	kfree(facts_text);
}

module_init(hostile_init);
module_exit(hostile_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Lets tests attack EL2 as a hostile host kernel would");
