package main

import (
	"os"
	"runtime"
	"runtime/debug"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// baseMemory is what the daemon may take beside what waits in its queues.
const baseMemory conf.Bytes = 48 << 20

// tune fits the Go runtime to a daemon on a host that has better things to do,
// unless the environment says otherwise. One processor is enough: work is
// handed from reader to upstream without waking another thread, which costs
// more than the work; measured, a third of the CPU at 20,000 lines/s.
func tune(cfg config) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		f := cfg.Proxy.Forward
		debug.SetMemoryLimit(int64(baseMemory + f.StatsD.Queue + f.Carbon.Queue))
	}
}
