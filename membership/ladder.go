package membership

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/state"
)

// namesPerTxn is how many names one transaction asks for. etcd's limit
// (--max-txn-ops, 128 unless it was changed) sums the operations along one
// path through a nested transaction, of each level the most of If, Then and
// Else. 120 names leave eight, and all eight are used: two for the transaction
// that holds the ladder beside the marker, three for the two rungs of a restart,
// three for what a rung does.
const namesPerTxn = 120

// A rung is one step of a ladder: if all of when holds, the name is claimed.
type rung struct {
	name     string // the name, or the ID of Join
	when     []clientv3.Cmp
	takeOver *state.Claim // the claim that this rung takes over; nil: the key is new
}

// ifFree is the rung that claims name when its key does not exist.
func ifFree(name, key string) rung {
	return rung{name: name, when: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}}
}

// ifOurs is the rung that takes over the living claim of own, to which this key belongs.
func ifOurs(own *state.Claim, key string) rung {
	return rung{name: own.Name, takeOver: own, when: stands(key, own.Revision, own.Lease)}
}

// stands are the conditions under which the claim at key is unchanged.
func stands(key string, revision int64, lease clientv3.LeaseID) []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(key), "=", revision),
		clientv3.Compare(clientv3.LeaseValue(key), "=", lease),
	}
}

// ifAnyFree returns a rung for each of names, whose keys begin with prefix.
func ifAnyFree(names []string, prefix string) []rung {
	rungs := make([]rung, len(names))
	for i, name := range names {
		rungs[i] = ifFree(name, prefix+name)
	}
	return rungs
}

// ladder returns the operation that executes then for the first rung that holds:
//
//	If(rung 1) Then(claim 1) Else(If(rung 2) Then(claim 2) Else(If(rung 3) …
//
// etcd runs it as one, so that however many hosts climb at once, each gets the first rung that is
// free at its own moment. There must be a rung.
func ladder(rungs []rung, then func(rung) clientv3.Op) clientv3.Op {
	last := len(rungs) - 1
	op := clientv3.OpTxn(rungs[last].when, []clientv3.Op{then(rungs[last])}, nil)
	for i := last - 1; i >= 0; i-- {
		op = clientv3.OpTxn(rungs[i].when, []clientv3.Op{then(rungs[i])}, []clientv3.Op{op})
	}
	return op
}

// climbed returns the index of the rung that held, and what its operation
// answered, from the response to a ladder; ok is false when none did.
func climbed(resp *pb.TxnResponse) (index int, answer *pb.ResponseOp, ok bool) {
	for ; !resp.Succeeded; index++ {
		if len(resp.Responses) == 0 {
			return 0, nil, false
		}
		resp = resp.Responses[0].GetResponseTxn()
	}
	return index, resp.Responses[0], true
}
