package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// The headers of every answer. The page needs its own stylesheet and nothing else, no other page may
// frame or read it, and it is out of date in a moment.
var headers = map[string]string{
	"Cache-Control":                "no-store",
	"Content-Security-Policy":      "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
}

// guard puts the headers on every answer of next. If the pages are at loopback addresses, it refuses
// requests for any other Host: otherwise a web page elsewhere could point its own name at 127.0.0.1
// and read the answers (DNS rebinding).
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for key, value := range headers {
			w.Header().Set(key, value)
		}
		if s.cfg.Load().isLoopback() && !isOurs(r) {
			http.Error(w, fmt.Sprintf("this page is for localhost with its own port, not for %q", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs reports whether the Host of r is localhost or a loopback address, and its port, if it has
// one, the port that r came to. In HTTP/1.0 there may be no Host: no browser omits it, but some
// health checks do.
func isOurs(r *http.Request) bool {
	if r.Host == "" {
		return !r.ProtoAtLeast(1, 1)
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil { // no port
		host = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	} else if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && port != strconv.Itoa(at.Port) {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}
