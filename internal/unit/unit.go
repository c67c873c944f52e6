// Package unit is the systemd unit that runs the daemon: what it gives us, and what it hears from us.
package unit

import (
	"fmt"
	"os"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Where systemd keeps the credentials of our unit, root's and the service's, while that runs, and
// the variable by which the service knows.
const (
	Credentials         = "/run/credentials/prefixproxy.service"
	CredentialsVariable = "CREDENTIALS_DIRECTORY"
)

// ReloadSocket is where `prefixproxy reload` waits for an answer, in RuntimeDir.
const ReloadSocket = "reload.sock"

// RuntimeDir returns the second of the directories in memory that systemd gives
// us. The first is for sockets, and gets mounted into containers.
func RuntimeDir() (dir string, ok bool) {
	dirs := strings.Split(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if len(dirs) < 2 {
		return "", false
	}
	return dirs[1], true
}

// IsOurs says whether our unit started us, and not a container, which has no INVOCATION_ID.
func IsOurs() bool {
	_, ok := RuntimeDir()
	return ok && os.Getenv("INVOCATION_ID") != ""
}

// Unreadable is what to do about a file that we may not read: in a container, too.
func Unreadable(file string) string {
	if IsOurs() {
		return LetRead(file)
	}
	return fmt.Sprintf("ask as root: sudo %s; or let this user (uid %d) read it", strings.Join(os.Args, " "), os.Geteuid())
}

// LetRead is how the service comes to read a file of root's that others may not.
func LetRead(file string) string {
	return "let the service alone read it: chgrp prefixproxy " + conf.ShellQuote(file) + " && chmod 0640 " + conf.ShellQuote(file) + " (in /root and /home it sees nothing)"
}
