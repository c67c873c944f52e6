package testbed

import (
	"os/exec"
	"syscall"
)

// endsWithUs makes the kernel end a program with this process, however that ends. The kernel takes the
// thread that started it for the parent: no thread may end (visitNetwork).
func endsWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
