// Package unit is our side of the systemd unit that runs the daemon: what systemd gives us, and what
// we tell it.
package unit

import (
	"fmt"
	"os"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Where systemd keeps the credentials of our unit while it runs (only root and the service may read
// them), and the variable that tells the service.
const (
	Credentials         = "/run/credentials/prefixproxy.service"
	CredentialsVariable = "CREDENTIALS_DIRECTORY"
)

// ReloadSocket is where `prefixproxy reload` waits for an answer, in RuntimeDir.
const ReloadSocket = "reload.sock"

// RuntimeDir returns the second runtime directory that systemd gives us. The first is for sockets,
// and gets mounted into containers.
func RuntimeDir() (dir string, ok bool) {
	dirs := strings.Split(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if len(dirs) < 2 {
		return "", false
	}
	return dirs[1], true
}

// IsOurs reports whether our unit started us; in a container, there is no INVOCATION_ID.
func IsOurs() bool {
	_, ok := RuntimeDir()
	return ok && os.Getenv("INVOCATION_ID") != ""
}

// Unreadable returns what to do about a file that we may not read, in the service or elsewhere.
func Unreadable(file string) string {
	if IsOurs() {
		return LetRead(file)
	}
	return fmt.Sprintf("run it as root: sudo %s; or let this user (uid %d) read the file", strings.Join(os.Args, " "), os.Geteuid())
}

// LetRead returns how to let the service read a file of root's that others may not read.
func LetRead(file string) string {
	return "let only the service read it: chgrp prefixproxy " + conf.ShellQuote(file) + " && chmod 0640 " + conf.ShellQuote(file) + " (it can't see /root and /home)"
}
