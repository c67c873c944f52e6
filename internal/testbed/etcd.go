package testbed

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// An etcdProcess is a single-node etcd server of the machine, as a process.
type etcdProcess struct {
	Endpoint string // client URL, whether it runs or not
	args     []string
	*process
}

// newEtcd returns a server that has not started; Start starts it, also again
// after a Kill, with the data it had.
func newEtcd(t testing.TB) *etcdProcess {
	t.Helper()
	return newEtcdIn(t, sidebyside.MemoryDir(t))
}

// newEtcdIn is newEtcd with its data in dir.
func newEtcdIn(t testing.TB, dir string) *etcdProcess {
	t.Helper()
	lookPath(t, "etcd", "etcd-server")
	client := fmt.Sprintf("http://127.0.0.1:%d", sidebyside.FreePort(t))
	peer := fmt.Sprintf("http://127.0.0.1:%d", sidebyside.FreePort(t))
	return &etcdProcess{Endpoint: client, args: []string{
		"--data-dir", dir, "--logger", "zap", "--log-level", "error", "--name", "testbed",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "testbed=" + peer,
	}}
}

// Start starts the server and waits until it listens.
func (e *etcdProcess) Start(t testing.TB) {
	t.Helper()
	e.process = start(t, exec.Command("etcd", e.args...))
	awaitListening(t, e.process, e.Endpoint[len("http://"):])
}

// embeddedEtcd returns the endpoint of an etcd in this process, which ends with the test.
func embeddedEtcd(t testing.TB) string { return devetcdtest.Start(t).Endpoint() }
