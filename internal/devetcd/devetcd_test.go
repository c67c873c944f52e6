package devetcd_test

import (
	"bytes"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
)

// Somebody else may take the port that was free a moment ago.
func TestPortIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	starts := 0
	s, err := devetcd.StartWith(t.TempDir(), func(cfg *embed.Config) {
		if starts++; starts == 1 {
			cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: taken.Addr().String()}}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if starts != 2 {
		t.Errorf("it took %d starts, want 2", starts)
	}
}

func TestRestartKeepsDataAndPort(t *testing.T) {
	s := devetcdtest.Start(t)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "mountain", "Denali"); err != nil {
		t.Fatal(err)
	}

	before := s.Endpoint()
	s.Close()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := s.Endpoint(); got != before {
		t.Errorf("endpoint after the restart: got %s, want %s", got, before)
	}
	resp, err := c.Get(t.Context(), "mountain")
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "Denali" {
		t.Errorf("value after the restart: got %v, want Denali", resp.Kvs)
	}
}

// The libraries and the data path must not pull the etcd server in: importers
// would inherit some 60 modules, and the data path a consensus server.
func TestServerIsNotImported(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	const module = "github.com/prefixproxy/prefixproxy"
	for _, pkg := range []string{module + "/membership", module + "/proxy"} {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		deps := strings.Fields(string(out))
		if len(deps) == 0 {
			t.Fatalf("go list -deps %s: no output", pkg)
		}
		for _, dep := range deps {
			if strings.HasPrefix(dep, "go.etcd.io/etcd/server/") {
				t.Errorf("%s imports %s", pkg, dep)
			}
		}
	}
}

// What an earlier process left may be damaged.
func TestDamagedLog(t *testing.T) {
	dir := t.TempDir()
	s, err := devetcd.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("logs: %v, %v", logs, err)
	}
	for _, log := range logs {
		if err := os.WriteFile(log, bytes.Repeat([]byte("garbage "), 50), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	end := func(err error) { panic(err) }
	if s, err := devetcd.StartOr(t.Context(), end, dir); err == nil {
		s.Close()
		t.Error("it started")
	}
}
