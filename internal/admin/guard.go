package admin

import (
	"fmt"
	"net/http"
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
		if loopbackOnly && !isLoopback(r.Host) {
			http.Error(w, fmt.Sprintf("this page answers to localhost, not to %q", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
