package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// keysPerRead bounds an answer of etcd as long as the values are this program's own;
// etcd.MaxAnswerBytes bounds any.
const keysPerRead = 1000

// A span is some keys of etcd: the first ones of a range, or the last in an order.
type span struct {
	from, end string
	limit     int64
	last      bool
	by        clientv3.SortTarget // of the last
}

// under returns the span of the keys with a prefix.
func under(prefix string) span {
	return span{from: prefix, end: clientv3.GetPrefixRangeEnd(prefix), limit: keysPerRead}
}

// op is the operation that reads it.
func (s span) op(more ...clientv3.OpOption) clientv3.Op {
	opts := append(slices.Clone(more), clientv3.WithRange(s.end), clientv3.WithLimit(s.limit))
	if s.last {
		opts = append(opts, clientv3.WithSort(s.by, clientv3.SortDescend))
	}
	return clientv3.OpGet(s.from, opts...)
}

// A keyPage is what stands at the keys of a span, without values that are too long to be
// ours.
type keyPage struct {
	kvs    []*mvccpb.KeyValue
	more   bool // there are more
	rest   span // what follows the keys that were read, be there more or not
	header *pb.ResponseHeader
}

func (s span) page(resp *pb.RangeResponse) keyPage {
	page := keyPage{kvs: resp.Kvs, more: resp.More && len(resp.Kvs) > 0, rest: s, header: resp.Header}
	if len(resp.Kvs) > 0 {
		page.rest.from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	page.kvs = slices.DeleteFunc(page.kvs, func(kv *mvccpb.KeyValue) bool { return len(kv.Value) > maxRecordBytes })
	return page
}

// A Reader reads from etcd: (*clientv3.Client).Do, or (*etcd.Client).Ask, which tries again.
type Reader func(context.Context, clientv3.Op) (clientv3.OpResponse, error)

// pages reads spans in one request, or in several where the answer would be too long.
func (r Reader) pages(ctx context.Context, spans []span, opts ...clientv3.OpOption) ([]keyPage, error) {
	if len(spans) == 1 {
		page, err := r.page(ctx, spans[0], opts...)
		return []keyPage{page}, err
	}
	ops := make([]clientv3.Op, len(spans))
	for i, s := range spans {
		ops[i] = s.op(opts...)
	}
	resp, err := r(ctx, clientv3.OpTxn(nil, ops, nil))
	if etcd.IsTooLong(err) {
		half := len(spans) / 2
		first, err := r.pages(ctx, spans[:half], opts...)
		if err != nil {
			return nil, err
		}
		second, err := r.pages(ctx, spans[half:], opts...)
		return append(first, second...), err
	}
	if err != nil {
		return nil, err
	}
	pages := make([]keyPage, len(spans))
	for i, answer := range resp.Txn().Responses {
		pages[i] = spans[i].page(answer.GetResponseRange())
	}
	return pages, nil
}

// page reads a span. Where the answer would be too long, it reads the keys first, and then their
// values one by one.
func (r Reader) page(ctx context.Context, s span, opts ...clientv3.OpOption) (keyPage, error) {
	resp, err := r(ctx, s.op(opts...))
	if !etcd.IsTooLong(err) {
		if err != nil {
			return keyPage{}, err
		}
		return s.page((*pb.RangeResponse)(resp.Get())), nil
	}
	for { // keys can be long, too
		resp, err = r(ctx, s.op(append(slices.Clone(opts), clientv3.WithKeysOnly())...))
		if !etcd.IsTooLong(err) || s.limit == 1 {
			break
		}
		s.limit = max(s.limit/2, 1)
	}
	if err != nil {
		return keyPage{}, err
	}
	page := s.page((*pb.RangeResponse)(resp.Get()))
	keys := page.kvs
	page.kvs = nil
	if s.limit == 1 {
		return page, nil // that was the one
	}
	for turn := range slices.Chunk(keys, 64) {
		ones := make([]span, len(turn))
		for i, kv := range turn {
			ones[i] = span{from: string(kv.Key), end: string(kv.Key) + "\x00", limit: 1}
		}
		values, err := r.pages(ctx, ones, opts...)
		if err != nil {
			return keyPage{}, err
		}
		for _, v := range values {
			page.kvs = append(page.kvs, v.kvs...)
		}
	}
	return page, nil
}

// all calls each for every key of a span, in their order. It returns the header of the first answer.
func (r Reader) all(ctx context.Context, s span, each func(*mvccpb.KeyValue)) (first *pb.ResponseHeader, err error) {
	for more := true; more; {
		page, err := r.page(ctx, s)
		if err != nil {
			return nil, err
		}
		first = cmp.Or(first, page.header)
		for _, kv := range page.kvs {
			each(kv)
		}
		s, more = page.rest, page.more
	}
	return first, nil
}

// Names calls each for what stands at the names of a pool. It returns the header of the first
// answer.
func (r Reader) Names(ctx context.Context, pool string, each func(name string, kv *mvccpb.KeyValue)) (*pb.ResponseHeader, error) {
	names := under(NamesKey(pool))
	names.limit *= 2
	return r.all(ctx, names, func(kv *mvccpb.KeyValue) { each(strings.TrimPrefix(string(kv.Key), NamesKey(pool)), kv) })
}

// EarlierTenures is how many of a name's tenures a claim looks back on: a line
// from before them has no name.
const EarlierTenures = 256

// GetLastTenures is the operation that reads the last tenures of name, for ReadTenures.
func GetLastTenures(pool, name string) clientv3.Op { return lastTenures(pool, name).op() }

func lastTenures(pool, name string) span {
	s := under(TenuresKey(pool) + name + "/")
	s.limit, s.last, s.by = EarlierTenures, true, clientv3.SortByCreateRevision
	return s
}

// LastTenures returns the last tenures of name, in the order of time; cut says that there were
// more before.
func (r Reader) LastTenures(ctx context.Context, pool, name string) (ts []Tenure, cut bool, err error) {
	page, err := r.page(ctx, lastTenures(pool, name))
	if err != nil {
		return nil, false, fmt.Errorf("read who held %s: %w", name, err)
	}
	return ReadTenures(pool, page.kvs), page.more, nil
}

// recordsPerRead is how many records are read at a time: etcd counts what is left of a range at each
// read of some of it, and so 100,000 of them would cost it their square by the thousand.
const recordsPerRead = 4000

// records calls each for the records of name, or of all names if that is "", in the order of keys.
func (r Reader) records(ctx context.Context, pool, name string, each func(*mvccpb.KeyValue)) error {
	s := under(TenuresKey(pool))
	if name != "" {
		s = under(s.from + name + "/")
	}
	s.limit = recordsPerRead
	_, err := r.all(ctx, s, each)
	return err
}
