package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A Server serves the pages. Whoever made it calls Bind once, then Run once;
// Run's goroutines own the listeners.
type Server struct {
	cfg       Config      // of the listeners
	badLines  atomic.Bool // are served
	log       *slog.Logger
	http      *http.Server
	listeners []net.Listener
	file      sockets.File // of a unix socket

	connections *connections
}

// New returns a server of src's state. It does no I/O.
func New(cfg Config, src Source, log *slog.Logger) *Server {
	s := &Server{cfg: cfg, log: log, connections: newConnections()}
	s.ServeBadLines(cfg.BadLines)
	a, _ := cfg.Address()
	s.http = &http.Server{
		Handler:           guard(src.informed(bounded(pages{src, &s.badLines}.routes())), cfg.Local() && !a.IsUnix()),
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
func (s *Server) ServeBadLines(yes bool) { s.badLines.Store(yes) }

// Bind opens the listeners; localhost is 127.0.0.1 and ::1, as far as the host
// has them. The error holds the address.
func (s *Server) Bind(ctx context.Context) error {
	if s.cfg.Listen == "" {
		return nil
	}
	a, err := s.cfg.Address()
	if err == nil {
		err = sockets.Each(a, func(a address.Address) (port int, err error) { return s.bind(ctx, a) })
	}
	if err != nil {
		s.Close()
		s.listeners = nil
		return fmt.Errorf("admin page: %w", err)
	}
	s.log.Info("admin page", "address", s.Addr().String())
	return nil
}

func (s *Server) bind(ctx context.Context, a address.Address) (port int, err error) {
	conn, file, err := sockets.Bind(ctx, a)
	if err != nil {
		return 0, err
	}
	s.listeners, s.file = append(s.listeners, conn.(net.Listener)), file
	if at, ok := s.Addr().(*net.TCPAddr); ok {
		port = at.Port
	}
	return port, nil
}

// Close closes the listeners of a server that will not Run.
func (s *Server) Close() {
	s.file.Remove()
	for _, ln := range s.listeners {
		ln.Close()
	}
}

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
			if err := s.http.Serve(boundedListener{ln, s.connections}); !errors.Is(err, http.ErrServerClosed) {
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
	s.file.Remove()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.http.Close()
	}
	return err
}
