package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A Server serves the pages. Call Bind once, then Run once. Another goroutine may call Reload.
type Server struct {
	src         Source
	rates       *rates
	log         *slog.Logger
	http        *http.Server
	connections *connections

	cfg   atomic.Pointer[Config] // in force
	site  atomic.Pointer[site]   // Run's
	moved chan *site             // to Run, which takes them over
}

// A site is where the pages are served.
type site struct {
	listeners []net.Listener
	file      sockets.File // of a unix socket
}

// New returns a server of src's state. It does no I/O.
func New(cfg Config, src Source, log *slog.Logger) *Server {
	s := &Server{src: src, rates: &rates{src: src}, log: log, connections: newConnections(), moved: make(chan *site)}
	s.cfg.Store(&cfg)
	s.site.Store(&site{})
	s.http = &http.Server{
		Handler:           s.guard(s.pages()),
		ConnState:         s.connections.note,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		MaxHeaderBytes:    16 << 10,

		DisableGeneralOptionsHandler: true, // guard sees OPTIONS *, too
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.http.SetKeepAlivesEnabled(false) // a connection is a request
	return s
}

// Bind opens the listeners; localhost is 127.0.0.1 and ::1, as far as the host has them. The error
// names the address.
func (s *Server) Bind(ctx context.Context) error {
	at, err := s.bind(ctx, *s.cfg.Load())
	if err == nil {
		s.site.Store(at)
	}
	return err
}

// Reload makes Run, which must be running, continue with cfg if rest succeeds; with an error,
// nothing has changed. A new address, or a unix socket that somebody has removed, is bound before
// rest, and the old one closed after it.
func (s *Server) Reload(ctx context.Context, cfg Config, rest func() error) (err error) {
	var to *site // nil: the same as before
	if cfg.Listen != s.cfg.Load().Listen || s.site.Load().file.IsLost() {
		if to, err = s.bind(ctx, cfg); err != nil {
			return err
		}
	}
	if err := rest(); err != nil {
		to.close()
		return err
	}
	if s.cfg.Store(&cfg); to == nil {
		return nil
	}
	select {
	case s.moved <- to:
	case <-ctx.Done():
		to.close()
	}
	return nil
}

// bind opens the listeners of a configuration: all, or with an error none.
func (s *Server) bind(ctx context.Context, cfg Config) (*site, error) {
	at := &site{}
	if cfg.Listen == "" {
		return at, nil
	}
	a, err := cfg.Address()
	if err == nil {
		err = sockets.Each(a, func(a address.Address) (port int, err error) { return at.bind(ctx, a) })
	}
	if err != nil {
		at.close()
		return nil, fmt.Errorf("admin page: %w", err)
	}
	return at, nil
}

func (at *site) bind(ctx context.Context, a address.Address) (port int, err error) {
	conn, file, err := sockets.Bind(ctx, a)
	if err != nil {
		return 0, err
	}
	at.listeners, at.file = append(at.listeners, conn.(net.Listener)), file
	if tcp, ok := at.addr().(*net.TCPAddr); ok {
		port = tcp.Port
	}
	return port, nil
}

func (at *site) close() {
	if at == nil {
		return
	}
	at.file.Remove()
	for _, ln := range at.listeners {
		ln.Close()
	}
}

func (at *site) addr() net.Addr {
	if len(at.listeners) == 0 {
		return nil
	}
	return at.listeners[0].Addr()
}

// Addr returns the address of the page, or nil if it is off or not bound.
func (s *Server) Addr() net.Addr { return s.site.Load().addr() }

// Run serves until ctx ends, and gives requests in progress a second to finish.
func (s *Server) Run(ctx context.Context) {
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { s.rates.run(ctx) })
	for at := s.site.Load(); ; {
		if addr := at.addr(); addr != nil {
			s.log.Info("admin page", "address", addr.String())
		}
		for _, ln := range at.listeners {
			serving.Go(func() { s.http.Serve(boundedListener{ln, s.connections}) }) // until ln is closed
		}
		select {
		case to := <-s.moved:
			at.close()
			at = to
			s.site.Store(at)
		case <-ctx.Done():
			at.close()
			s.stop(context.WithoutCancel(ctx))
			return
		}
	}
}

// stop ends the server within a second.
func (s *Server) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		s.http.Close()
	}
}
