package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/state"
)

// What others have put in place of dev's file is neither touched nor waited for.
func TestDevWritesItsOwnFile(t *testing.T) {
	for name, plant := range map[string]func(path, victim string) error{
		"a link":      func(path, victim string) error { return os.Symlink(victim, path) },
		"a hard link": func(path, victim string) error { return os.Link(victim, path) },
		"a pipe":      func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"a file":      func(path, _ string) error { return os.WriteFile(path, nil, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			victim := filepath.Join(dir, "victim")
			if err := os.WriteFile(victim, []byte("root's"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := plant(filepath.Join(dir, "config.yaml"), victim); err != nil {
				t.Fatal(err)
			}
			stateDir, err := state.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer stateDir.Close()
			written := make(chan string, 1)
			go func() {
				file, err := writeConfig(mustParse(t, complete), stateDir)
				if err != nil {
					t.Error(err)
				}
				written <- file
			}()
			select {
			case file := <-written:
				if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
					t.Errorf("it is %v, %v", info, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it waits for who reads")
			}
			if text, err := os.ReadFile(victim); err != nil || string(text) != "root's" {
				t.Errorf("the file of others: %q, %v", text, err)
			}
		})
	}
}

// dev accepts the file of a real daemon, wherever its etcd is, and whoever may read the password.
func TestDevNeedsNothingOfTheFilesEtcd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "etcd: {endpoints: [x], username: prefixproxy, password_file: /no/such, tls: {ca: /no/such}}\nmembership: {ttl: 10s}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := (&devCmd{Config: file}).load(t.TempDir()); err != nil || cfg.Membership.TTL != 10*time.Second {
		t.Errorf("got %v, and a ttl of %v", err, cfg.Membership.TTL)
	}
}
