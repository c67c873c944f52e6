package membership

// A State is the state of a holder. The package comment draws how they follow one another.
type State string

// The states.
const (
	Claiming  State = "claiming"  // asking etcd for a name
	Waiting   State = "waiting"   // all names are taken
	Held      State = "held"      // the claim may be used
	Suspended State = "suspended" // there is a claim, and it may not be used now
	Released  State = "released"  // Run has ended
)

// A Loss is why a claim was lost.
type Loss string

// The losses: a closed set.
const (
	Deleted     Loss = "deleted"     // the key is gone, the lease is not
	Overwritten Loss = "overwritten" // somebody put another value or lease on the key
	Lost        Loss = "lost"        // another claim stands at the key
	Expired     Loss = "expired"     // the lease is gone
	DataLoss    Loss = "data_loss"   // etcd was wiped, or restored from a backup
)

// Losses returns every Loss, so that counters can start at 0.
func Losses() []Loss { return []Loss{Deleted, Overwritten, Lost, Expired, DataLoss} }

// Error makes a Loss the error of the request that found it.
func (l Loss) Error() string { return "claim lost: " + string(l) }

// Stats counts what a holder has done since it was created.
type Stats struct {
	Claims uint64          // names claimed or taken over
	Losses map[Loss]uint64 // every Loss has its entry
}
