// Package admin is the HTTP side of the daemon: what it is doing, for people,
// for Prometheus and for an orchestrator's probes. In reading order:
//
//	config.go     where it listens
//	server.go     the server: bind, serve, move, stop
//	bounds.go     how many connections and requests there may be at a time
//	guard.go      the headers of every answer, and who gets one
//	status.go     what is shown, and where it comes from
//	pages.go      the pages
//	view.go       the status, arranged for people
//	issues.go     what is wrong, what it means and what to do
//	rates.go      the lines of the last minute
//	units.go      numbers, formatted for people
//	fleetview.go  the pool: a row for each name, a bar for each tenure
//	ready.go      whether the daemon can do its job now
//	claims.go     the claim as Prometheus metrics
//
// All pages are read-only, and none shows a secret.
//
// Not promised: privacy. Whoever can reach the address can read every page; unless it is a
// loopback address, that is the whole network.
package admin
