// Package membership gives each host of a pool a short name of its own, the
// first free one of a list, for as long as the host lives. It uses etcd: a name
// is a key under a lease.
//
// Join and Members are the simple calls: claim a name, and see who holds which. The daemon uses a
// Holder, which claims a name, keeps it, and claims another if it is lost. Users of a name ask
// Current before each use. Below are package etcd, which has the client that a Holder uses, package
// pool, which knows how a pool lies in etcd and reads what people ask about one, and package state,
// which remembers a claim from one start to the next.
//
// # The path of a lease
//
// The files, in the order in which a lease meets them:
//
//	member.go       Join and Members: the calls for those who keep their own lease
//	ladder.go       the claim's transaction: the first free name, exactly
//	names.go        the lists to claim from
//	config.go       the configuration of a Holder
//	claim.go        a name under a lease, and its horizon
//	history.go      who owned the seconds before a claim
//	current.go      what all may see: the claim, or the state; why a claim was lost
//	requests.go     how etcd is asked: bounded in time, and watched
//	holder.go       Holder, and Run: claim → renew → lost → re-claim → release
//	acquire.go      getting a claim: grant, claim, wait
//	succession.go   when a name that was claimed may be used
//	keep.go         keeping a claim: renew, suspend, resume, lose, let go
//	records.go      writing about tenures, beside the lease
//	outage.go       when etcd fails: what is logged, and when to try again
//	store.go        what is asked of etcd: leases, lost data, the records of tenures
//	claiming.go     the claim in etcd: what is asked for, and what an earlier request got
//	renewing.go     a renewal in etcd, over one stream
//	waiting.go      waiting in etcd for a name that is freed
//
// # States
//
//	      all taken
//	waiting ◄─────────┐
//	   │ one freed    │
//	   └─────────► claiming ◄───────────────┐
//	                  │ claimed             │ lost
//	                  ▼       past horizon  │
//	                held ────────────► suspended
//	                  │  ◄────────────
//	                  │       renewed
//	                  ▼ Run ends
//	              released
//
// A claim may be lost from held as well as from suspended, and Run may end in any
// state. A claim that needs a TTL of caution begins suspended: one taken over from a
// copied state directory or after a reboot, one made after etcd lost data, and one on a
// name whose last holder may still be there.
//
// # Safety
//
// A claim may be used until its horizon: two thirds of the granted TTL after the last
// successful renewal (or the grant) was sent, by a clock that keeps running while the
// machine sleeps. etcd ends the lease no earlier than one whole TTL after it received
// that request, so nobody else can have the name before the horizon. Current checks this
// at each call, and does not depend on any goroutine running.
//
// A free name does not prove that its lease ran out: a key can be deleted by hand, and an
// etcd leader that stalled may revoke living leases
// (https://github.com/etcd-io/etcd/issues/15247). So a holder that claims a name looks at
// the records of its tenures. If an earlier one has neither a recorded end nor a lease
// that ran out under one leader, the name is used one TTL later.
//
// # Not promised
//
// Nothing downstream checks the fencing token (Claim.Revision): a caller that has asked
// Current and is then stopped, by the scheduler or by a paused hypervisor, uses the name
// late. The clocks' rates must agree to within a third. etcd's gRPC proxy answers a keep-alive
// with the next answer that it gets to one of its own, and so perhaps to one that is older, by
// as long as that answer was under way.
//
// A virtual machine that was cloned while it ran, a cluster that was wiped or restored, a
// lease revoked by hand, and a name whose records were deleted with it can give two hosts
// one name for up to one renewal period, or until the horizon where etcd is away from then on;
// and so can Join, which keeps no records. Hosts
// that were running before notice a restore, but new ones can't: wait one TTL before the
// restored etcd starts. Its raft terms begin anew, and no answer of etcd tells two terms
// of one number apart: if it has several elections within a TTL of its start, one of the
// leaders may revoke a lease that was granted before the backup, which then looks as if
// it had run out. The same can happen with an etcd that elects in less than half a second
// (--election-timeout) and whose leader then stalls for a TTL.
//
// Lists longer than 120 names are searched forward only: a name that is freed after its
// turn is not tried again. The times of tenures come from the hosts' own clocks: two hosts
// whose clocks are more than 5 s apart may both write one name for one moment, and so may a
// holder whose clock was set back in the seconds before its end, and the next one.
package membership
