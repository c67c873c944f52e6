package admin

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed index.html style.css
var files embed.FS

var index = template.Must(template.ParseFS(files, "index.html"))

// pages serves the pages of a source.
type pages struct {
	src      Source
	badLines bool // serve /badlines
}

// routes returns the pages. The patterns refuse every method but GET and HEAD.
func (p pages) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.serveIndex)
	mux.HandleFunc("GET /style.css", serveStyle)
	mux.HandleFunc("GET /status.json", p.serveStatus)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.src.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: maxRequests, DisableCompression: true}))
	mux.HandleFunc("GET /healthz", serveHealth)
	mux.HandleFunc("GET /readyz", p.serveReady)
	if p.badLines {
		mux.HandleFunc("GET /badlines", p.serveBadLines)
	}
	return mux
}

func (p pages) serveIndex(w http.ResponseWriter, _ *http.Request) {
	var page bytes.Buffer
	if err := index.Execute(&page, newView(p.src.status(), p.badLines)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, http.StatusOK, "text/html; charset=utf-8", page.Bytes())
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, files, "style.css")
}

func (p pages) serveStatus(w http.ResponseWriter, _ *http.Request) {
	text, err := json.MarshalIndent(p.src.status(), "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, http.StatusOK, "application/json", append(text, '\n'))
}

func serveHealth(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, plain, []byte("alive\n"))
}

func (p pages) serveReady(w http.ResponseWriter, _ *http.Request) {
	if reasons := p.src.status().notReady(); len(reasons) > 0 {
		write(w, http.StatusServiceUnavailable, plain, []byte(strings.Join(reasons, "\n")+"\n"))
		return
	}
	write(w, http.StatusOK, plain, []byte("ready\n"))
}

// serveBadLines lists the last refused lines, the newest first: time,
// protocol, reason, peer, and the line's beginning, quoted.
func (p pages) serveBadLines(w http.ResponseWriter, _ *http.Request) {
	var text bytes.Buffer
	for _, bad := range p.src.Lines.BadLines() {
		fmt.Fprintln(&text, bad)
	}
	write(w, http.StatusOK, plain, text.Bytes())
}

const plain = "text/plain; charset=utf-8"

// write sends one answer. A reader that has gone is no concern of ours.
func write(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	w.Write(body)
}
