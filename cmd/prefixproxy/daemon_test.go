package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/membership/state"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// The hint for a state directory takes it away from nobody, and fits the service or a shell.
func TestStateHint(t *testing.T) {
	there := t.TempDir()
	absent, file := filepath.Join(there, "absent"), filepath.Join(there, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		unit      bool
		err       error
		want      string
	}{
		{"another user's", there, false, statedir.ErrNotOurs, "give this one its own membership.state_dir"},
		{"may not be written", there, false, fs.ErrPermission, "or: sudo install -d -m 0700"},
		{"open to others", there, false, statedir.ErrOpenToOthers, "or: sudo install -d -m 0700"},
		{"may not be made", absent, false, fs.ErrPermission, "or: sudo install -d -m 0700"},
		{"the unit's", config.Default().Membership.StateDir, true, statedir.ErrNotOurs, "or: sudo install -d -m 0700"},
		{"a file", file, false, syscall.ENOTDIR, "set membership.state_dir"},
		{"a full disk", absent, false, fmt.Errorf("mkdir: %w", syscall.ENOSPC), "set membership.state_dir"},
		{"the unit forbids it", absent, true, fs.ErrPermission, "ReadWritePaths=" + absent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if t.Setenv("RUNTIME_DIRECTORY", ""); tt.unit {
				t.Setenv("RUNTIME_DIRECTORY", "/run/prefixproxy:/run/prefixproxy-queue")
				t.Setenv("INVOCATION_ID", "8a3e")
			}
			if got := stateHint(tt.dir, tt.err); !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

// The hint for a socket that can't be bound fits its type and its path.
func TestBindHint(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("listen for carbon on tcp://localhost:80: %w", syscall.EACCES), "port 1024 or higher"},
		{fmt.Errorf("listen for statsd on unixgram:///run/s.sock: %w", syscall.EACCES), "for the service: /run/prefixproxy"},
		{fmt.Errorf("listen for statsd on unixgram:///srv/s.sock: %w", syscall.EROFS), "for the service: /run/prefixproxy"},
		{fmt.Errorf("listen for statsd on unixgram:///run/prefixproxy-sockets/s.sock: %w", syscall.EACCES), "enable --now prefixproxy-unix.socket"},
		{fmt.Errorf("listen for statsd on unixgram:///tmp/s.sock: %w", syscall.EADDRINUSE), "ss -lntupx"},
		{fmt.Errorf("listen for statsd on udp://localhost:8125: %w", syscall.EADDRINUSE), "ss -lntupx"},
		{fmt.Errorf("listen for statsd on unixgram:///tmp/s.sock?group=adm: %w", syscall.EPERM), "SupplementaryGroups="},
		{fmt.Errorf("listen for statsd on unixgram:///tmp/s.sock?group=apps: %w", user.UnknownGroupError("apps")), "groupadd --system apps"},
		{fmt.Errorf("listen for statsd on unix:///tmp/s.sock: /tmp/s.sock is another user's socket: %w", syscall.EPERM), "use an existing directory"},
		{fmt.Errorf("listen for statsd on unix:///etc/passwd/s.sock: %w", syscall.ENOTDIR), "/run/prefixproxy"},
	} {
		hint, ok := errors.AsType[failure](bindHint(tt.err))
		if !ok || !strings.Contains(hint.hint, tt.want) {
			t.Errorf("%v: got the hint %q, want %q in it", tt.err, hint.hint, tt.want)
		}
	}
}

// The daemon logs what check warns of.
func TestDaemonWarns(t *testing.T) {
	cfg := mustParse(t, strings.Replace(complete, "graphite:2003", "graphite:2004", 1)+"admin: {listen: 0.0.0.0:0}\nlisten: {statsd: [udp://0.0.0.0:0]}\n")
	cfg.Membership.StateDir = t.TempDir()
	dir, err := state.Open(cfg.Membership.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var log bytes.Buffer
	d, err := newDaemon(cfg, dir, &ui{log: slog.New(slog.NewTextHandler(&log, nil))}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.client.Close()
	for _, want := range []string{"udp://0.0.0.0:0 is not loopback", "admin.listen 0.0.0.0:0 is not loopback", "expects pickles"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("got %s\nwant %q", &log, want)
		}
	}
}

// systemd is not told that an address is down if nothing is wrong with it.
func TestUpstreamLine(t *testing.T) {
	for want, u := range map[string]proxy.UpstreamStatus{
		"statsd udp://a:1 up":          {Protocol: "statsd", Address: "udp://a:1", Up: true},
		"carbon tcp://a:1 not in use":  {Protocol: "carbon", Address: "tcp://a:1", Reason: outlet.Spare},
		"carbon second tcp://a:1 down": {Protocol: "carbon", Address: "tcp://a:1", Destination: "second", Reason: "connection refused"},
	} {
		if got := upstreamLine(u); got != want {
			t.Errorf("%+v is %q, want %q", u, got, want)
		}
	}
}
