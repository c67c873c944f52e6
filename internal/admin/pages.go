package admin

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed index.html fleet.html style.css
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"age": age, "bytes": bytesOf, "number": number, "percent": percent, "rate": perSecond, "cut": cut,
	"ago":   func(t time.Time) time.Duration { return time.Since(t) },
	"high":  func(limit int64) int64 { return int64(nearBound * float64(limit)) },
	"int64": func(n int) int64 { return int64(n) },
	"less":  func(a, b int) int { return a - b },
}).ParseFS(files, "*.html"))

// A page is what is served at a path.
type page struct {
	path, kind string                // kind: its Content-Type; "": write sets it
	ask        func(context.Context) // asks etcd, before the request takes a turn, so that nobody waits for that; or nil
	write      func(w http.ResponseWriter, r *http.Request) error
}

// ServeHTTP implements http.Handler. If write has nothing to tell now, the answer is 503; if there is
// no such page, 404.
func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.kind != "" {
		w.Header().Set("Content-Type", p.kind)
	}
	err := p.write(w, r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// etcdTime is how long a page waits for etcd, and scrapeTime how long a scrape does, which waits for
// the first answer only.
const (
	etcdTime   = 1500 * time.Millisecond
	scrapeTime = 300 * time.Millisecond
)

// pages returns the pages. The patterns refuse every method but GET and HEAD.
func (s *Server) pages() http.Handler {
	const html, plain, programs = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"
	mux, limits := http.NewServeMux(), newLimits()
	for _, p := range []page{
		{"/{$}", html, nil, s.writeIndex},
		{"/fleet", html, s.askPool, s.writeFleet},
		{"/names.json", programs, s.askPool, s.writeNames},
		{"/status.json", programs, nil, s.writeStatus},
		{"/metrics", "", s.askCounts, s.writeMetrics},
		{"/healthz", plain, nil, s.writeHealth},
		{"/readyz", plain, nil, s.writeReady},
		{"/badlines", plain, nil, s.writeBadLines},
		{"/style.css", "text/css; charset=utf-8", nil, writeStyle},
	} {
		bounded := limits.bound(p)
		mux.HandleFunc("GET "+p.path, func(w http.ResponseWriter, r *http.Request) {
			if p.ask != nil {
				p.ask(r.Context())
			}
			bounded.ServeHTTP(w, r)
		})
	}
	return mux
}

func (s *Server) askPool(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, etcdTime)
	defer cancel()
	s.src.Pool.View(ctx)
}

func (s *Server) askCounts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	if s.src.Pool.Known() == nil {
		s.src.Pool.Counts(ctx)
	}
}

func (s *Server) writeIndex(w http.ResponseWriter, _ *http.Request) error {
	return templates.ExecuteTemplate(w, "index.html", s.newView(time.Now()))
}

func (s *Server) writeMetrics(w http.ResponseWriter, r *http.Request) error {
	promhttp.HandlerFor(s.src.Gatherer, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
	return nil
}

func writeStyle(w http.ResponseWriter, _ *http.Request) error {
	text, err := files.ReadFile("style.css")
	w.Write(text)
	return err
}

func (s *Server) writeStatus(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, s.src.status())
}

func writeJSON(w http.ResponseWriter, data any) error {
	text := json.NewEncoder(w)
	text.SetIndent("", "  ")
	return text.Encode(data)
}

func (s *Server) writeHealth(w http.ResponseWriter, _ *http.Request) error {
	if !s.src.Alive() {
		return errors.New("a loop is stuck")
	}
	fmt.Fprintln(w, "alive")
	return nil
}

func (s *Server) writeReady(w http.ResponseWriter, _ *http.Request) error {
	if reasons := s.src.status().notReady(); len(reasons) > 0 {
		return errors.New(strings.Join(reasons, "\n"))
	}
	fmt.Fprintln(w, "ready")
	return nil
}

// writeBadLines lists the last refused lines, the newest first.
func (s *Server) writeBadLines(w http.ResponseWriter, _ *http.Request) error {
	if !s.cfg.Load().BadLines {
		return fs.ErrNotExist
	}
	for _, ln := range s.src.Lines.BadLines() {
		fmt.Fprintln(w, ln)
	}
	return nil
}
