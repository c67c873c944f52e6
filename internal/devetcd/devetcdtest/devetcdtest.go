// Package devetcdtest starts embedded etcd servers for tests. It stands apart
// from devetcd so that the program does not link package testing.
package devetcdtest

import (
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
)

// Start starts a server that ends with the test.
func Start(t testing.TB) *devetcd.Server {
	t.Helper()
	s, err := devetcd.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
