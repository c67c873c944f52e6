package admin

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/prefixproxy/prefixproxy/internal/fleet"
)

//go:embed index.html fleet.html style.css
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"age": age, "bytes": bytesOf, "number": number, "percent": percent, "rate": perSecond, "spare": isSpare,
	"ago":   func(t time.Time) time.Duration { return time.Since(t) },
	"high":  func(limit int64) int64 { return int64(nearBound * float64(limit)) },
	"int64": func(n int) int64 { return int64(n) },
}).ParseFS(files, "*.html"))

// pages serves the pages of a source.
type pages struct {
	src      Source
	badLines *atomic.Bool // serve /badlines
}

// routes returns the pages. The patterns refuse every method but GET and HEAD.
func (p pages) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.serveIndex)
	mux.HandleFunc("GET /style.css", serveStyle)
	mux.HandleFunc("GET /status.json", p.serveStatus)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.src.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: maxRequests, DisableCompression: true}))
	mux.HandleFunc("GET /healthz", p.serveHealth)
	mux.HandleFunc("GET /readyz", p.serveReady)
	mux.HandleFunc("GET /fleet", p.serveFleet)
	mux.HandleFunc("GET /names.json", p.serveNames)
	mux.HandleFunc("GET /badlines", p.serveBadLines)
	return mux
}

func (p pages) serveIndex(w http.ResponseWriter, _ *http.Request) {
	serveTemplate(w, "index.html", newView(p.src, p.badLines.Load(), time.Now()))
}

func serveTemplate(w http.ResponseWriter, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := templates.ExecuteTemplate(w, name, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// etcdTime is how long a page waits for etcd; a scrape waits only for the first answer,
// and for less.
const (
	etcdTime   = 1500 * time.Millisecond
	scrapeTime = 300 * time.Millisecond
)

// informed asks for the pool before the request has its turn: no other waits for that.
func (src Source) informed(next http.Handler) http.Handler {
	await := func(r *http.Request, ask func(context.Context) *fleet.View, patience time.Duration) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		ask(ctx)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fleet", "/names.json":
			await(r, src.Pool.View, etcdTime)
		case "/metrics":
			if src.Pool.Known() == nil {
				await(r, src.Pool.Counts, scrapeTime)
			}
		}
		next.ServeHTTP(w, r)
	})
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, files, "style.css")
}

func (p pages) serveStatus(w http.ResponseWriter, _ *http.Request) {
	serveJSON(w, p.src.status())
}

func serveJSON(w http.ResponseWriter, data any) {
	w.Header().Set("Content-Type", "application/json")
	text := json.NewEncoder(w)
	text.SetIndent("", "  ")
	if err := text.Encode(data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (p pages) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if !p.src.Health.Alive() {
		http.Error(w, "a loop stands still", http.StatusServiceUnavailable)
		return
	}
	servePlain(w, "alive")
}

func (p pages) serveReady(w http.ResponseWriter, _ *http.Request) {
	if reasons := p.src.status().notReady(); len(reasons) > 0 {
		http.Error(w, strings.Join(reasons, "\n"), http.StatusServiceUnavailable)
		return
	}
	servePlain(w, "ready")
}

// serveBadLines lists the last refused lines, the newest first: time,
// protocol, reason, peer, and the line's beginning, quoted.
func (p pages) serveBadLines(w http.ResponseWriter, r *http.Request) {
	if !p.badLines.Load() {
		http.NotFound(w, r)
		return
	}
	servePlain(w, p.src.Lines.BadLines()...)
}

// servePlain serves lines.
func servePlain[T any](w http.ResponseWriter, lines ...T) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, ln := range lines {
		fmt.Fprintln(w, ln)
	}
}
