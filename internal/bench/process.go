//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the CPU time that a process has used, in user space and in
// the kernel, to the nanosecond: its clock of clock_getcpuclockid(3).
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// wakeups returns how often the threads of a process have gone to sleep.
func wakeups(pid int) (n uint64, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	for _, status := range threads {
		sleeps, err := statusField(status, "voluntary_ctxt_switches")
		if err != nil {
			return 0, err
		}
		n += sleeps
	}
	return n, nil
}

// resident returns how much memory a process occupies, and how much it has at
// most, in bytes.
func resident(pid int) (now, peak uint64, err error) {
	status := fmt.Sprintf("/proc/%d/status", pid)
	if now, err = statusField(status, "VmRSS"); err != nil {
		return 0, 0, err
	}
	peak, err = statusField(status, "VmHWM")
	return now << 10, peak << 10, err
}

// statusField returns a number of a status file: proc_pid_status(5).
func statusField(path, field string) (uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			return strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}
