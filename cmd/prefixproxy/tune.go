package main

import (
	"os"
	"runtime"
	"runtime/debug"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// heapBeside is what Go's memory may hold beside the queue of StatsD; that of
// Carbon is not Go's. The daemon may take 48 MiB beside the queues; half of it is
// for what is not Go's: pages of the binary, and the room for datagrams.
const heapBeside conf.Bytes = 24 << 20

// tune fits the Go runtime to a daemon on a host that has better things to do,
// unless the environment says otherwise. One processor is enough: work is
// handed from reader to upstream without waking another thread, which costs
// more than the work.
func tune(cfg config) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	tuneMemory(cfg)
}

// tuneMemory is the part of tune that depends on the configuration.
func tuneMemory(cfg config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		limit := heapBeside + cfg.Proxy.Forward.StatsD.Queue
		if cfg.Proxy.Forward.StatsD.Aggregates() {
			limit = heapBeside + cfg.Proxy.Aggregate.Memory
		}
		debug.SetMemoryLimit(int64(limit))
	}
}
