package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/unixsocket"
)

// A Server serves the pages. Whoever made it calls Bind once, then Run once;
// Run's goroutines own the listeners.
type Server struct {
	cfg       Config // of the listeners
	src       Source
	handler   atomic.Pointer[http.Handler]
	log       *slog.Logger
	http      *http.Server
	listeners []net.Listener

	connections connections
}

// New returns a server of src's state. It does no I/O.
func New(cfg Config, src Source, log *slog.Logger) *Server {
	s := &Server{cfg: cfg, src: src, log: log, connections: connections{open: map[*client]struct{}{}, freed: make(chan struct{}, 1)}}
	s.ServeBadLines(cfg.BadLines)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ConnState:         s.connections.note,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,

		DisableGeneralOptionsHandler: true, // OPTIONS * is none of ours, either
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// ServeBadLines says, from the next request on, whether /badlines is served. It may
// be called at any time.
func (s *Server) ServeBadLines(yes bool) {
	a, _ := s.cfg.Address()
	handler := guard(s.src.informed(bounded(pages{s.src, yes}.routes())), s.cfg.Local() && !a.IsUnix())
	s.handler.Store(&handler)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }

// Bind opens the listeners; localhost is 127.0.0.1 and ::1, as far as the host
// has them. The error holds the address.
func (s *Server) Bind() error {
	if s.cfg.Listen == "" {
		return nil
	}
	listeners, err := listen(s.cfg)
	if err != nil {
		return fmt.Errorf("admin page: %w", err)
	}
	s.listeners = listeners
	s.log.Info("admin page", "address", s.Addr().String())
	if !s.cfg.Local() {
		s.log.Warn("admin page can be reached from other hosts", "address", s.Addr().String())
	}
	return nil
}

// Close closes the listeners of a server that will not Run.
func (s *Server) Close() { closeAll(s.listeners) }

// Addr returns the address of the page; nil when it is off or not bound.
func (s *Server) Addr() net.Addr {
	if len(s.listeners) == 0 {
		return nil
	}
	return s.listeners[0].Addr()
}

// Run serves until ctx ends, lets the requests in hand end, for a second at
// most, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, ln := range s.listeners {
		g.Go(func() error {
			if err := s.http.Serve(boundedListener{ln, &s.connections}); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve admin page on %s: %w", ln.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		return s.stop(context.WithoutCancel(ctx))
	})
	return g.Wait()
}

// stop ends the server within a second, requests in hand or not.
func (s *Server) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.http.Close()
	}
	return err
}

// listen opens what cfg names: for localhost both loopback addresses, less those that the
// host lacks. Port 0 takes a free one on each.
func listen(cfg Config) (listeners []net.Listener, err error) {
	a, err := cfg.Address()
	if err != nil {
		return nil, err
	}
	if a.IsUnix() {
		return listenUnix(a.Path)
	}
	hosts := []string{a.Host}
	if strings.EqualFold(a.Host, "localhost") {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var lacking error
	for _, a.Host = range hosts {
		ln, err := net.Listen(a.Family(), a.HostPort())
		switch {
		case err == nil:
			listeners = append(listeners, ln)
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			lacking = err
		default:
			closeAll(listeners)
			return nil, err
		}
	}
	if len(listeners) == 0 {
		return nil, lacking
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		ln.Close()
	}
}

// listenUnix listens on the socket at path, in place of one that a killed
// daemon left there and nobody listens on.
func listenUnix(path string) ([]net.Listener, error) {
	if err := unixsocket.RemoveStale("unix", path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	file, err := unixsocket.Bound(path)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return []net.Listener{unixListener{ln, file}}, nil
}

// A unixListener removes its own file, and no other's.
type unixListener struct {
	net.Listener
	file unixsocket.File
}

func (l unixListener) Close() error {
	l.file.Remove()
	return l.Listener.Close()
}
