package membership

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// namesPerTxn is how many names one transaction asks for. etcd's limit
// (--max-txn-ops, 128 unless it was changed) sums the operations along one
// path through a nested transaction: 120 leave eight, for the transaction that
// holds the ladder beside the marker (2), the two rungs of a restart (2), and
// what is put (1; a tenure record beside it will make it 2).
const namesPerTxn = 120

// A rung is one step of a ladder: if all of when holds, key is put.
type rung struct {
	key      string
	when     []clientv3.Cmp
	revision int64 // of the claim that this rung takes over; 0: key is new
}

// ifFree is the rung that claims key when it does not exist.
func ifFree(key string) rung {
	return rung{key: key, when: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}}
}

// ifOurs is the rung that takes over the living claim on key which was made at
// revision under lease.
func ifOurs(key string, revision int64, lease clientv3.LeaseID) rung {
	return rung{key: key, revision: revision, when: []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(key), "=", revision),
		clientv3.Compare(clientv3.LeaseValue(key), "=", lease),
	}}
}

func ifAnyFree(keys []string) []rung {
	rungs := make([]rung, len(keys))
	for i, key := range keys {
		rungs[i] = ifFree(key)
	}
	return rungs
}

// ladder returns the operation that puts value under lease at the key of the
// first rung that holds:
//
//	If(rung 1) Then(put 1) Else(If(rung 2) Then(put 2) Else(If(rung 3) …
//
// etcd runs it as one, so that however many climb at once, each gets the first
// rung that is free at its own moment. There must be a rung.
func ladder(rungs []rung, value string, lease clientv3.LeaseID) clientv3.Op {
	then := func(r rung) []clientv3.Op {
		return []clientv3.Op{clientv3.OpPut(r.key, value, clientv3.WithLease(lease))}
	}
	last := len(rungs) - 1
	op := clientv3.OpTxn(rungs[last].when, then(rungs[last]), nil)
	for i := last - 1; i >= 0; i-- {
		op = clientv3.OpTxn(rungs[i].when, then(rungs[i]), []clientv3.Op{op})
	}
	return op
}

// climbed returns the index of the rung that held, from the response to a
// ladder; ok is false when none did.
func climbed(resp *pb.TxnResponse) (index int, ok bool) {
	for ; !resp.Succeeded; index++ {
		if len(resp.Responses) == 0 {
			return 0, false
		}
		resp = resp.Responses[0].GetResponseTxn()
	}
	return index, true
}
