// Package membership gives each host of a pool a short name of its own, the
// first free one of a list, for as long as the host lives. It uses etcd: a name
// is a key under a lease.
//
// Join and Members are the small calls: claim, and see who is there. A Holder
// is the daemon's way: it claims a name, keeps it, and claims another when it
// is lost. Consumers ask Current before each use of the name.
//
// # A lease's walk
//
// The files, in the order in which a lease meets them:
//
//	member.go       Join and Members: the calls for those who keep their own lease
//	ladder.go       the claim's transaction: the first free name, exactly
//	names.go        the lists to claim from
//	config.go       what a Holder is told
//	claim.go        a name under a lease, and its horizon
//	history.go      whose the seconds before a claim were
//	tenure.go       who held a name from when to when: the record in etcd
//	state.go        what a Holder is at; why a claim was lost
//	statedir.go     what is remembered from one start to the next
//	holder.go       Holder: the snapshots, and Run: claim → renew → lost → re-claim → release
//	acquire.go      the way to a claim: grant, claim, wait
//	succession.go   when a name that was claimed may be used
//	keep.go         the way of a claim: renew, suspend, resume, lose, let go
//	ourtenures.go   our own tenures
//	records.go      what is written about tenures, beside the lease
//	outage.go       when etcd fails us: what is said, and when to try again
//	store.go        how all this lies in etcd
//	renewstream.go  renewals over one stream
//	client.go       the etcd client of a Holder: one member at a time
//	connect.go      the connection to that member, and to the next
//	login.go        one login for a token
//	causes.go       what errors mean, and what a person can do
//	read.go         how much is read of etcd at a time
//	list.go         what people ask: who is there, who waits, who was, and where one has been
//	glance.go       what a page asks, again and again, for one request
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
// A claim may be lost from held just as from suspended, and Run may end at any
// state. A claim that needs a TTL of caution begins suspended: one taken over
// from a copied state directory or at another boot, made after etcd lost data, or
// of a name whose last holder may be there still.
//
// # Safety
//
// A claim may be used until its horizon: two thirds of the granted TTL after
// the last successful renewal (or the grant) was sent, by a clock that counts
// the machine's suspension. etcd ends the lease one whole TTL after it received
// that request at the earliest, so that nobody else can have the name before
// the horizon. Current checks this at each call, and needs nobody to be awake.
//
// That a name is free does not prove that its lease ran out so: a key can be
// deleted by hand, and a leader of etcd that stood still may revoke leases that
// live (https://github.com/etcd-io/etcd/issues/15247). Who claims a name looks at
// the records of its tenures, and uses it one TTL later if one before has neither
// an end on record nor a lease that ran out under one leader.
//
// # Not promised
//
// Nothing downstream checks the fencing token (Claim.Revision): who has asked
// Current and is then stopped before the use, be it by the scheduler or by a
// paused hypervisor, uses the name late. The clocks' rates must agree to within
// a third. A virtual machine that was cloned alive, a cluster that was wiped or
// restored, a lease that was revoked by hand, and a name whose records were
// deleted with it, can give two hosts one name for up to one renewal period; and so
// can Join, which keeps no records. Of a restore those know who were there; who
// comes new can't: wait one TTL before the restored etcd starts. Its terms begin
// anew, and no answer of etcd tells two of one number apart: if it has had several
// elections within a TTL of its start, one of their leaders may revoke a lease that
// was granted before the backup, and that passes for one which ran out. An etcd that elects in
// less than half a second (--election-timeout) can, if its leader then stands
// still for a TTL. Lists longer than 120 names are gone through forward: a name
// freed after its turn is not come back to. The times of tenures are the hosts'
// own clocks: two that are more than 5 s apart may write one name for one moment.
package membership
