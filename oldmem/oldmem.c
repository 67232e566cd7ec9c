// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/oldmem: the memory of a kernel that was here before, to read, to write and to map.
 *
 * A kernel that was booted beside a sleeping one is told that the other's memory is reserved. This device
 * reaches that memory and no other. An offset is a physical address. Whatever the running kernel uses is
 * refused: its RAM, devices, what firmware has claimed, and what no resource speaks of.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/security.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>
#include <asm/processor.h>

/* How much is mapped at a time. */
#define OLDMEM_PIECE	SZ_4M

/*
 * Interrupt controllers, timers and the firmware's flash have the end of the first 4 GiB on every PC.
 * Firmware calls most of that reserved, as it does with memory.
 */
#define OLDMEM_PC_START	0xfec00000ULL
#define OLDMEM_PC_END	0x100000000ULL

/* Below, everything has more than one user. */
#define OLDMEM_START	SZ_1M

/* A claim on a resource is made to see whether it can be, one at a time. */
static DEFINE_MUTEX(oldmem_claim);

static loff_t oldmem_end(void)
{
	return 1LL << boot_cpu_data.x86_phys_bits;
}

/*
 * Whether @size bytes at @start are memory of a kernel that was here before: 0, -EINVAL if there can be no
 * memory, or -EPERM if it is somebody else's.
 */
static int oldmem_check(u64 start, u64 size)
{
	bool claimed;

	if (!size || start >= oldmem_end() || size > oldmem_end() - start)
		return -EINVAL;
	if (start < OLDMEM_START)
		return -EPERM;
	if (start < OLDMEM_PC_END && start + size > OLDMEM_PC_START)
		return -EPERM;
	/* None of it is RAM of this kernel, and all of it was reserved when this kernel was booted. */
	if (region_intersects(start, size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return -EPERM;
	if (region_intersects(start, size, IORESOURCE_MEM,
			      IORES_DESC_RESERVED) != REGION_INTERSECTS)
		return -EPERM;
	/* Nobody has claimed a part of it since: what could not be claimed now is in use. */
	mutex_lock(&oldmem_claim);
	claimed = request_mem_region(start, size, "oldmem");
	if (claimed)
		release_mem_region(start, size);
	mutex_unlock(&oldmem_claim);
	return claimed ? 0 : -EPERM;
}

/*
 * Copies @count bytes between @user and the memory at *@pos, a piece at a time; returns how many, or why
 * none.
 */
static ssize_t oldmem_copy(char __user *user, size_t count, loff_t *pos, bool write)
{
	size_t done = 0;
	int error = 0;

	if (*pos < 0)
		return -EINVAL;
	while (done < count) {
		u64 at = *pos;
		u64 page = at & PAGE_MASK;
		size_t skip = at - page;
		/* Pieces end at multiples of their size, so that large pages can map them. */
		size_t len = min_t(size_t, count - done,
				   OLDMEM_PIECE - (at & (OLDMEM_PIECE - 1)));
		unsigned long left;
		void *mapped;

		error = oldmem_check(at, len);
		if (error)
			break;
		mapped = memremap(page, PAGE_ALIGN(skip + len), MEMREMAP_WB);
		if (!mapped) {
			error = -ENOMEM;
			break;
		}
		if (write)
			left = copy_from_user(mapped + skip, user + done, len);
		else
			left = copy_to_user(user + done, mapped + skip, len);
		memunmap(mapped);
		done += len - left;
		*pos += len - left;
		if (left) {
			error = -EFAULT;
			break;
		}
		if (signal_pending(current)) {
			error = -EINTR;
			break;
		}
		cond_resched();
	}
	return done ? done : error;
}

static ssize_t oldmem_read(struct file *file, char __user *user, size_t count,
			   loff_t *pos)
{
	return oldmem_copy(user, count, pos, false);
}

static ssize_t oldmem_write(struct file *file, const char __user *user,
			    size_t count, loff_t *pos)
{
	return oldmem_copy((char __user *)user, count, pos, true);
}

static loff_t oldmem_llseek(struct file *file, loff_t offset, int whence)
{
	return fixed_size_llseek(file, offset, whence, oldmem_end());
}

static int oldmem_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 size = vma->vm_end - vma->vm_start;
	u64 start;
	int error;

	/* The offset comes in pages. */
	if (vma->vm_pgoff > oldmem_end() >> PAGE_SHIFT)
		return -EINVAL;
	start = (u64)vma->vm_pgoff << PAGE_SHIFT;
	error = oldmem_check(start, size);
	if (error)
		return error;
	return remap_pfn_range(vma, vma->vm_start, vma->vm_pgoff, size,
			       vma->vm_page_prot);
}

static int oldmem_open(struct inode *inode, struct file *file)
{
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	/* The same reason that keeps /dev/mem shut. */
	return security_locked_down(LOCKDOWN_DEV_MEM);
}

static const struct file_operations oldmem_operations = {
	.owner	= THIS_MODULE,
	.open	= oldmem_open,
	.read	= oldmem_read,
	.write	= oldmem_write,
	.llseek	= oldmem_llseek,
	.mmap	= oldmem_mmap,
};

static struct miscdevice oldmem_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "oldmem",
	.fops	= &oldmem_operations,
	.mode	= 0600,
};

module_misc_device(oldmem_device);

MODULE_DESCRIPTION("/dev/oldmem: the memory of a kernel that was here before");
MODULE_AUTHOR("The kjump authors");
MODULE_LICENSE("GPL");
