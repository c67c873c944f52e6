// Package outlet sends lines to servers: to the first address of a failover list
// that works.
//
// That a connection could be opened proves nothing: a balancer without a backend accepts
// and closes, a hung server accepts and never reads. So an address is judged by its
// sessions, and rests when they fail. The Source decides what is sent, whether it is sent
// again, and when it counts as delivered.
//
// The files, in the order in which a line meets them:
//
//	source.go      what an outlet sends; config.go: where to, and by what
//	outlet.go      Outlet: connect → session → failed → connect …
//	failover.go    the list, and which of it is next
//	health.go      what is known of each server
//	status.go      what is shown and logged about them; said.go: once
//	search.go      a server of the list that can be connected to
//	dial.go        looking up a name, and connecting: package link
//	session.go     sending on one link; sent.go: what was sent
//	end.go         until the peer ends it, or we do
//	background.go  what goes on meanwhile: the scout for another server; a name that moves
//
// # Not promised
//
// An acknowledgement comes from the peer's kernel (or from whatever stands in between),
// not from the program there. A silent UDP upstream whose network reports no errors is
// assumed to work, unless it has a health check.
package outlet
