//go:build unix

package state

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// writable returns an error where no file can be made in dir; a disk may be full.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// lockPlace locks f, which the kernel unlocks when the process ends, and
// returns the place that f stands for.
func lockPlace(f *os.File) (Place, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return Place{}, ErrLocked
	}
	if err != nil {
		return Place{}, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return Place{}, err
	}
	return Place{Boot: bootID(), Device: uint64(st.Dev), Inode: st.Ino}, nil
}

// bootID returns Linux' random name of this boot, "" elsewhere.
// https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
