// Package devetcd runs an embedded single-node etcd: for trying things out, and
// for tests. It listens on loopback alone, and it does not sync to disk: what
// it holds survives the process, but not a crash of the machine.
package devetcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// An embedded server writes little: two files of 64 MB before its first key are too much.
func init() { wal.SegmentSizeBytes = 4 << 20 }

// startTime bounds how long a server may take until it answers.
const startTime = 30 * time.Second

// A Server is an embedded etcd. One goroutine at a time may use it.
type Server struct {
	dir    string
	change func(*embed.Config) // of the usual configuration
	addr   string              // host:port
	etcd   *embed.Etcd
}

// Start starts a server with its data in dir, which it makes when it is not
// there, on a free port of 127.0.0.1. It returns when the server answers; the
// caller closes it.
func Start(dir string) (*Server, error) { return StartWith(dir, func(*embed.Config) {}) }

// StartOr is Start, until ctx ends, of a server that calls end, in place of a panic, with what it
// cannot go on without; end must not return.
func StartOr(ctx context.Context, end func(error), dir string) (*Server, error) {
	log := zap.NewNop().WithOptions(zap.WithPanicHook(lastWords(end)), zap.WithFatalHook(lastWords(end)))
	return start(ctx, dir, func(cfg *embed.Config) { cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log) })
}

// lastWords makes an error of what etcd logs before it ends the process.
type lastWords func(error)

// OnWrite implements zapcore.CheckWriteHook.
func (end lastWords) OnWrite(said *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(said.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok {
			err = fmt.Errorf("%s: %w", said.Message, cause)
		}
	}
	end(err)
}

// StartWith is Start of a server whose configuration change changes at each start.
func StartWith(dir string, change func(*embed.Config)) (*Server, error) {
	return start(context.Background(), dir, change)
}

func start(ctx context.Context, dir string, change func(*embed.Config)) (*Server, error) {
	for tries := 10; ; tries-- {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		s := &Server{dir: dir, addr: addr, change: change}
		if err = s.restart(ctx); err == nil {
			return s, nil
		}
		if tries == 1 || !errors.Is(err, syscall.EADDRINUSE) { // somebody else was faster
			return nil, err
		}
	}
}

// freeAddr returns an address that nobody listens at: of 127.0.0.1, or of ::1 on a host
// that has no other loopback. Its port is not among those that the kernel gives to others
// while the server is down between two starts.
func freeAddr() (addr string, err error) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for range 100 {
			addr = net.JoinHostPort(host, strconv.Itoa(10_000+rand.IntN(10_000)))
			var l net.Listener
			if l, err = net.Listen("tcp", addr); err == nil {
				return addr, l.Close()
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
		}
	}
	return "", fmt.Errorf("find a free port for the embedded etcd: %w", err)
}

// Endpoint returns the client URL, like http://127.0.0.1:2379.
func (s *Server) Endpoint() string { return "http://" + s.addr }

// Close stops the server and waits until it has. The data stays.
func (s *Server) Close() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Restart starts the server again after Close, with its data and on its port.
func (s *Server) Restart() error { return s.restart(context.Background()) }

func (s *Server) restart(ctx context.Context) error {
	e, err := startEtcd(s.config())
	if err == nil {
		err = ready(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("start the embedded etcd on %s with its data in %s: %w", s.addr, s.dir, err)
	}
	s.etcd = e
	return nil
}

// startEtcd is embed.StartEtcd, which panics when a log is damaged.
func startEtcd(cfg *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if said := recover(); said != nil {
			err = fmt.Errorf("it panicked: %v", said)
		}
	}()
	return embed.StartEtcd(cfg)
}

// ready waits until e answers. One that doesn't is not closed: that would wait for it, too.
func ready(ctx context.Context, e *embed.Etcd) (err error) {
	select {
	case <-e.Server.ReadyNotify():
		return nil
	case err = <-e.Err():
		e.Close()
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(startTime):
		return fmt.Errorf("it does not answer within %v", startTime)
	}
}

// config returns the configuration: quiet, small, and on loopback.
func (s *Server) config() *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = s.dir
	client := url.URL{Scheme: "http", Host: s.addr}
	host, _, _ := net.SplitHostPort(s.addr)
	peer := url.URL{Scheme: "http", Host: net.JoinHostPort(host, "0")} // there are no peers
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.EnableGRPCGateway = false
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "1000"
	cfg.QuotaBackendBytes = 64 << 20
	cfg.BcryptCost = 4 // the least: its users are made up by tests
	s.change(cfg)
	return cfg
}
