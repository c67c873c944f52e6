package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// The headers of every answer. The page needs its own stylesheet and nothing
// else, no other page may frame it or read from it, and what it says is old in
// a moment.
var headers = map[string]string{
	"Cache-Control":                "no-store",
	"Content-Security-Policy":      "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
}

// guard puts the headers on every answer of next. With loopbackOnly it refuses
// requests whose Host is not a loopback one: else a web page elsewhere could
// point its own name at 127.0.0.1 and read the answers (DNS rebinding).
func guard(next http.Handler, loopbackOnly bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for key, value := range headers {
			w.Header().Set(key, value)
		}
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close") // nobody waits for the body
		}
		if loopbackOnly && !isOurs(r) {
			http.Error(w, fmt.Sprintf("this page answers to localhost and its own port, not to %q", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs says whether the Host of r is a loopback one: the name, and the port, if there
// is one, that r came to.
func isOurs(r *http.Request) bool {
	if !isLoopback(r.Host) {
		return false
	}
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		return true // none
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return !ok || port == strconv.Itoa(at.Port)
}

// isLoopback says whether hostport, with or without a port, means this host to
// whoever reads it: localhost or an address of a loopback interface.
func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
