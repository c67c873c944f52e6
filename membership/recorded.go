package membership

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// tenures returns the last tenures of name, in the order of time; cut says that there were
// more before. Any goroutine may call it.
func (s *store) tenures(ctx context.Context, name string) (ts []pool.Tenure, cut bool, err error) {
	return pool.Reader(s.client.Do).LastTenures(ctx, s.cfg.Pool, name)
}

// endOp is the operation that records the end of t, if the record is as it was
// when we wrote or read it, and more holds.
func (s *store) endOp(t pool.Tenure, more ...clientv3.Cmp) clientv3.Op {
	key := t.Key(s.cfg.Pool)
	return clientv3.OpTxn(
		append(more, clientv3.Compare(clientv3.ModRevision(key), "=", t.Revision)),
		[]clientv3.Op{clientv3.OpPut(key, t.Value())}, nil)
}

// recordEnd records the end of a tenure, unless its record was written to since it was
// read. The end of another's is only for the name's holder to write: by is its claim, or nil
// if the tenure was our own. Any goroutine may call it.
func (s *store) recordEnd(ctx context.Context, t pool.Tenure, by *Claim) error {
	var more []clientv3.Cmp
	if by != nil {
		more = stands(by.key, by.revision, by.lease)
	}
	if _, err := s.client.Do(ctx, s.endOp(t, more...)); err != nil {
		return fmt.Errorf("record the end of a tenure of %s: %w", t.Name, err)
	}
	return nil
}

// release deletes the name of c and records the end of its tenure as one: nobody sees the
// name free and its tenure lasting, or the other way round. Each is left as it is if it is
// not ours any more.
func (s *store) release(ctx context.Context, c *Claim, t pool.Tenure) error {
	ops := []clientv3.Op{clientv3.OpTxn(stands(c.key, c.revision, c.lease), []clientv3.Op{clientv3.OpDelete(c.key)}, nil)}
	if t.ID != "" {
		ops = append(ops, s.endOp(t))
	}
	if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("release %s: %w", c.name, err)
	}
	return nil
}

// prune deletes the records of name's tenures that ended before a moment, and the oldest
// ones beyond tenuresPerName, some at a time: the next claim goes on. Any goroutine may call
// it.
func (s *store) prune(ctx context.Context, name string, before time.Time) error {
	all := pool.TenuresKey(s.cfg.Pool) + name + "/"
	resp, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(prunedAtOnce)),
		clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithCountOnly()),
	).Commit()
	if err != nil {
		return fmt.Errorf("count the tenures of %s: %w", name, err)
	}
	over := resp.Responses[1].GetResponseRange().Count - tenuresPerName
	var deletes []clientv3.Op
	for i, kv := range resp.Responses[0].GetResponseRange().Kvs {
		t, ok := pool.ReadTenure(s.cfg.Pool, kv)
		if old := !ok || !t.Open() && t.To.Before(before); !old && int64(i) >= over {
			break
		}
		deletes = append(deletes, clientv3.OpDelete(string(kv.Key)))
	}
	if len(deletes) == 0 {
		return nil
	}
	if _, err := s.client.Txn(ctx).Then(deletes...).Commit(); err != nil {
		return fmt.Errorf("prune the tenures of %s: %w", name, err)
	}
	return nil
}

// The bounds of what is kept of a name's past.
const (
	tenuresKept    = 90 * 24 * time.Hour
	tenuresPerName = 1000
	prunedAtOnce   = 120
)
