// Package pool is how a pool of names lies in etcd, and what can be read there: who holds which
// name, who waits for one, and who held it before.
//
//	layout.go  the keys, and what may stand there
//	tenure.go  who held a name from when to when: a record
//	read.go    how much is read of etcd at a time, whatever lies there
//	list.go    what people ask: who holds which name, who waits, and who held it before
//	glance.go  what a page asks again and again, in one request
//
// Not promised: that what is read is true. Whoever may write to etcd can write anything; what this
// program could not have written is left out.
package pool

import (
	"fmt"
	"strings"
	"time"
)

// How a pool lies in etcd:
//
//	/prefixproxy/<pool>/names/<name>                    the owner, under the lease of the claim
//	/prefixproxy/<pool>/tenures/<name>/<start>-<lease>  a record: see Tenure
//	/prefixproxy/<pool>/waiting/<lease>                 the owner of a host that finds no free name, under that lease
//	/prefixproxy/<pool>/waiting/<lease>/since           since when, in RFC 3339
//	/prefixproxy/<pool>/released/<name>                 the lease that is asked to let go, under a lease of one TTL
//	/prefixproxy/<pool>/data_loss                       who saw it, under a lease of one TTL

// keys returns what the keys of a pool begin with.
func keys(pool string) string { return "/prefixproxy/" + pool + "/" }

// NamesKey returns what the keys of the names begin with.
func NamesKey(pool string) string { return keys(pool) + "names/" }

// TenuresKey returns what the keys of the records begin with.
func TenuresKey(pool string) string { return keys(pool) + "tenures/" }

// WaitingKey returns what the keys of hosts without a name begin with.
func WaitingKey(pool string) string { return keys(pool) + "waiting/" }

// ReleasedKey returns what the keys of names that are asked for begin with.
func ReleasedKey(pool string) string { return keys(pool) + "released/" }

// MarkerKey returns the key of the marker of data loss.
func MarkerKey(pool string) string { return keys(pool) + "data_loss" }

// The bounds of names and owners in bytes, and of a lease's time to live.
const (
	MaxNameBytes  = 64
	MaxOwnerBytes = 255
	MinTTL        = 5 * time.Second // renewals every TTL/6 leave room for four attempts before the horizon
	MaxTTL        = time.Hour       // a crashed host's name is lost to the pool for that long, and more
)

// HorizonShare is for how long after a renewal was sent a claim may be used. The rest of the TTL is
// left for clocks that disagree, and for keeping clear of a successor.
func HorizonShare(ttl time.Duration) time.Duration { return ttl * 2 / 3 }

// IsName says whether s may be the name of a pool or of a host: 1 to 64 bytes
// of letters, digits, '_' and '-', which are safe in a metric path and in a key.
func IsName(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '_', b == '-':
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= MaxNameBytes
}

// IsOwner says whether s may be an owner: printable ASCII, at most 255 bytes.
func IsOwner(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= MaxOwnerBytes
}

// ShowOwner returns an owner as it may be shown to people: as it is when it is
// one that can be seen, and otherwise cut and quoted, because anybody can write to etcd.
func ShowOwner(s string) string {
	if IsOwner(s) && strings.TrimSpace(s) != "" {
		return s
	}
	return fmt.Sprintf("%+q", s[:min(len(s), MaxOwnerBytes)])
}
