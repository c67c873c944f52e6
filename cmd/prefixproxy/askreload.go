package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type reloadCmd struct {
	PID int `arg:"" optional:"" help:"The daemon's process: $MAINPID."`
}

// reloadPatience is how long a daemon has to answer.
const reloadPatience = 30 * time.Second

// Run sends SIGHUP to a daemon of our own unit and waits for what becomes of it.
func (c *reloadCmd) Run(ui *ui) error {
	dir, ok := ownRuntimeDir()
	if !ok && os.Getenv("RUNTIME_DIRECTORY") != "" {
		return hinted(errors.New("RUNTIME_DIRECTORY does not name two directories"), "the unit needs RuntimeDirectory=prefixproxy prefixproxy-queue, whatever a drop-in adds; until then: kill -HUP "+strconv.Itoa(c.PID))
	}
	if !ok || c.PID <= 0 {
		return hinted(errors.New("reload is for the unit"), "systemctl reload prefixproxy, or kill -HUP with the daemon's process")
	}
	path := filepath.Join(dir, reloadSocket)
	os.Remove(path) // of one that was killed
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer conn.Close()
	if err := syscall.Kill(c.PID, syscall.SIGHUP); err != nil {
		return fmt.Errorf("signal process %d: %w", c.PID, err)
	}
	conn.SetReadDeadline(time.Now().Add(reloadPatience))
	answer := make([]byte, 64<<10)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("process %d has not said what became of the reload: %w", c.PID, err)
	}
	if problem := string(answer[:n]); problem != "" {
		return errors.New("configuration not reloaded; the old one stays:\n" + strings.TrimPrefix(problem, "prefixproxy: error: "))
	}
	return nil
}
