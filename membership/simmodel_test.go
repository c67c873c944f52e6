package membership

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A model is an etcd cluster as its clients see it: one linearizable map with
// revisions, leases that end by the leader's clock, and a log of what was
// deleted. It runs in a synctest bubble and speaks etcd's own requests, so that
// the real store stands above it.
//
// It ends a lease at the very end of its TTL. etcd takes up to half a second
// longer, which is only safer.
type model struct {
	mu       sync.Mutex
	revision int64
	keys     map[string]*mvccpb.KeyValue // replaced, never changed
	leases   map[int64]*modelLease
	deletes  []deletion
	news     chan struct{} // closed at the next deletion, wipe or restore
	leader   chan struct{} // nil: there is one; otherwise closed when there is one again
	deposed  bool          // a leader that was deposed still answers keep-alives, to no effect
	expiry   *time.Timer   // of the next lease
	granted  int64
	term     uint64 // of the leader
	history  int    // how often it was restored
	epoch    time.Time
	rate     float64 // of the leader's clock

	wrote func(old, kv *mvccpb.KeyValue) // told of every put, under mu; old may be nil
}

type modelLease struct {
	ttl      time.Duration
	end      time.Duration // by the leader's clock
	term     uint64        // in which it was granted
	by       *process      // who asked for it
	restored bool          // it came back from a backup
}

type deletion struct {
	key      string
	revision int64
}

// A backup is what a restore brings back.
type backup struct {
	revision int64
	keys     map[string]*mvccpb.KeyValue
	leases   map[int64]*modelLease
}

func newModel() *model {
	m := &model{
		revision: 1,
		keys:     make(map[string]*mvccpb.KeyValue),
		leases:   make(map[int64]*modelLease),
		news:     make(chan struct{}),
		term:     2,
		epoch:    time.Now(),
		rate:     1,
		wrote:    func(old, kv *mvccpb.KeyValue) {},
	}
	m.expiry = time.AfterFunc(time.Hour, func() { m.do(func() {}) })
	return m
}

// do runs f as etcd runs a request: alone, when what has run out is gone.
func (m *model) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	f()
	m.awaitExpiry()
}

// now reads the leader's clock.
func (m *model) now() time.Duration {
	return time.Duration(float64(time.Since(m.epoch)) * m.rate)
}

// expire ends the leases that have run out; only a leader does.
func (m *model) expire() {
	if m.leader != nil {
		return
	}
	var ended []int64
	for id, l := range m.leases {
		if l.end <= m.now() {
			ended = append(ended, id)
		}
	}
	slices.Sort(ended)
	for _, id := range ended {
		m.end(id)
	}
}

func (m *model) awaitExpiry() {
	if m.leader != nil {
		return
	}
	next := time.Hour
	for _, l := range m.leases {
		next = min(next, time.Duration(float64(l.end-m.now())/m.rate)+time.Microsecond)
	}
	m.expiry.Reset(max(next, time.Microsecond))
}

// end ends a lease, and so the keys under it, at one revision.
func (m *model) end(id int64) {
	delete(m.leases, id)
	var keys []string
	for key, kv := range m.keys {
		if kv.Lease == id {
			keys = append(keys, key)
		}
	}
	if len(keys) > 0 {
		m.revision++
		slices.Sort(keys)
		m.remove(keys)
	}
}

// remove deletes keys at the revision that has begun.
func (m *model) remove(keys []string) {
	for _, key := range keys {
		delete(m.keys, key)
		m.deletes = append(m.deletes, deletion{key, m.revision})
	}
	m.tell()
}

func (m *model) tell() {
	close(m.news)
	m.news = make(chan struct{})
}

func (m *model) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: m.revision, RaftTerm: m.term}
}

func (m *model) grant(r *pb.LeaseGrantRequest, by *process) (*pb.LeaseGrantResponse, error) {
	m.granted++
	ttl := time.Duration(r.TTL) * time.Second
	id := cmp.Or(r.ID, 0x1000+m.granted)
	m.leases[id] = &modelLease{ttl: ttl, end: m.now() + ttl, term: m.term, by: by}
	return &pb.LeaseGrantResponse{Header: m.header(), ID: id, TTL: r.TTL}, nil
}

func (m *model) revoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if m.leases[r.ID] == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	m.end(r.ID)
	return &pb.LeaseRevokeResponse{Header: m.header()}, nil
}

func (m *model) keepAlive(r *pb.LeaseKeepAliveRequest) *pb.LeaseKeepAliveResponse {
	resp := &pb.LeaseKeepAliveResponse{Header: m.header(), ID: r.ID}
	if l := m.leases[r.ID]; l != nil {
		resp.TTL = int64(l.ttl / time.Second)
		if !m.deposed {
			l.end = m.now() + l.ttl
		}
	}
	return resp
}

func (m *model) timeToLive(r *pb.LeaseTimeToLiveRequest) *pb.LeaseTimeToLiveResponse {
	resp := &pb.LeaseTimeToLiveResponse{Header: m.header(), ID: r.ID, TTL: -1}
	if l := m.leases[r.ID]; l != nil {
		resp.TTL, resp.GrantedTTL = int64((l.end-m.now())/time.Second), int64(l.ttl/time.Second)
		for key, kv := range m.keys {
			if r.Keys && kv.Lease == r.ID {
				resp.Keys = append(resp.Keys, []byte(key))
			}
		}
		slices.SortFunc(resp.Keys, bytes.Compare)
	}
	return resp
}

// inRange says whether a request for key and end, as etcd has them, means k.
func inRange(k string, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return k == string(key)
	case len(end) == 1 && end[0] == 0:
		return k >= string(key)
	}
	return k >= string(key) && k < string(end)
}

// match returns what is in a range, in the order of the keys.
func (m *model) match(key, end []byte) []*mvccpb.KeyValue {
	if len(end) == 0 {
		if kv := m.keys[string(key)]; kv != nil {
			return []*mvccpb.KeyValue{kv}
		}
		return nil
	}
	var kvs []*mvccpb.KeyValue
	for k, kv := range m.keys {
		if inRange(k, key, end) {
			kvs = append(kvs, kv)
		}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs
}

func (m *model) read(r *pb.RangeRequest) *pb.RangeResponse {
	if r.Revision != 0 {
		panic("the model reads the present")
	}
	kvs := m.match(r.Key, r.RangeEnd)
	switch {
	case r.SortOrder == pb.RangeRequest_NONE || r.SortTarget == pb.RangeRequest_KEY:
	case r.SortTarget == pb.RangeRequest_CREATE:
		slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
	default:
		panic("the model sorts by keys and by creation")
	}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		slices.Reverse(kvs)
	}
	resp := &pb.RangeResponse{Header: m.header(), Count: int64(len(kvs))}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	if r.CountOnly {
		kvs = nil
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp
}

// txn runs a transaction as etcd does: all comparisons, of the nested ones too,
// then the checks of what is to be put, then the operations, at one revision.
func (m *model) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	var way []bool
	m.compareAll(r, &way)
	if !m.leasesLive(r, slices.Clone(way), new(int)) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	before := m.revision
	m.revision++
	resp, wrote := m.run(r, way, new(int))
	if !wrote {
		m.revision = before
	}
	resp.Header = m.header()
	return resp, nil
}

// compareAll appends to way, for r and the transactions that are run in it, in
// their order, whether the comparisons hold.
func (m *model) compareAll(r *pb.TxnRequest, way *[]bool) {
	holds := !slices.ContainsFunc(r.Compare, func(c *pb.Compare) bool { return !m.compare(c) })
	*way = append(*way, holds)
	for _, op := range branch(r, holds) {
		if nested := op.GetRequestTxn(); nested != nil {
			m.compareAll(nested, way)
		}
	}
}

func branch(r *pb.TxnRequest, holds bool) []*pb.RequestOp {
	if holds {
		return r.Success
	}
	return r.Failure
}

func (m *model) compare(c *pb.Compare) bool {
	kvs := m.match(c.Key, c.RangeEnd)
	if len(kvs) == 0 {
		return c.Target != pb.Compare_VALUE && compareKey(c, &mvccpb.KeyValue{})
	}
	return !slices.ContainsFunc(kvs, func(kv *mvccpb.KeyValue) bool { return !compareKey(c, kv) })
}

func compareKey(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var got int
	switch c.Target {
	case pb.Compare_VALUE:
		got = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		got = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		got = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		got = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		got = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return got == 0
	case pb.Compare_NOT_EQUAL:
		return got != 0
	case pb.Compare_GREATER:
		return got > 0
	}
	return got < 0
}

// leasesLive says whether the leases of all that r puts on its way are there.
func (m *model) leasesLive(r *pb.TxnRequest, way []bool, step *int) bool {
	holds := way[*step]
	*step++
	for _, op := range branch(r, holds) {
		if put := op.GetRequestPut(); put != nil && put.Lease != 0 && m.leases[put.Lease] == nil {
			return false
		}
		if nested := op.GetRequestTxn(); nested != nil && !m.leasesLive(nested, way, step) {
			return false
		}
	}
	return true
}

// run runs the operations of r on its way, at m.revision.
func (m *model) run(r *pb.TxnRequest, way []bool, step *int) (resp *pb.TxnResponse, wrote bool) {
	resp = &pb.TxnResponse{Succeeded: way[*step]}
	*step++
	for _, op := range branch(r, resp.Succeeded) {
		answer := &pb.ResponseOp{}
		did := false
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			answer.Response = &pb.ResponseOp_ResponseRange{ResponseRange: m.read(op.RequestRange)}
		case *pb.RequestOp_RequestPut:
			m.write(op.RequestPut)
			did = true
			answer.Response = &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: m.header()}}
		case *pb.RequestOp_RequestDeleteRange:
			n := m.deleteRange(op.RequestDeleteRange)
			did = n > 0
			answer.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Header: m.header(), Deleted: n}}
		case *pb.RequestOp_RequestTxn:
			var nested *pb.TxnResponse
			nested, did = m.run(op.RequestTxn, way, step)
			answer.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}
		}
		wrote = wrote || did
		resp.Responses = append(resp.Responses, answer)
	}
	return resp, wrote
}

// write puts a key at m.revision. Its lease lives.
func (m *model) write(r *pb.PutRequest) {
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: m.revision, ModRevision: m.revision, Version: 1}
	old := m.keys[string(r.Key)]
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	m.keys[string(r.Key)] = kv
	m.wrote(old, kv)
}

func (m *model) deleteRange(r *pb.DeleteRangeRequest) int64 {
	var keys []string
	for _, kv := range m.match(r.Key, r.RangeEnd) {
		keys = append(keys, string(kv.Key))
	}
	if len(keys) > 0 {
		m.remove(keys)
	}
	return int64(len(keys))
}

// deletedSince returns a key below prefix that was deleted at revision from or
// later, and a channel that is closed when there may be another.
func (m *model) deletedSince(from int64, prefix string) (found *deletion, news chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.deletes {
		if d.revision >= from && strings.HasPrefix(d.key, prefix) {
			return &d, m.news
		}
	}
	return nil, m.news
}

// lead says whether there is a leader; if not, elected is closed when there is.
func (m *model) lead() (elected chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

// depose leaves the cluster without a leader: nothing is answered and no lease
// ends. For the first second the old leader may not know it.
func (m *model) depose() {
	m.do(func() {
		if m.leader == nil {
			m.leader = make(chan struct{})
			m.deposed = true
		}
	})
}

func (m *model) forget() { m.do(func() { m.deposed = false }) }

// elect gives the cluster a leader with another clock. Each lease has its whole
// TTL again, as after a restart of all.
func (m *model) elect(rate float64) {
	m.do(func() {
		if m.leader == nil {
			return
		}
		m.deposed = false
		m.term++
		m.epoch, m.rate = time.Now(), rate
		for _, l := range m.leases {
			l.end = l.ttl
		}
		close(m.leader)
		m.leader = nil
	})
}

// goOn is what a former leader does that stood still and goes on: it finds that
// leases which it knows have run out, and has those of them revoked that chosen
// says, though another leader has renewed them
// (https://github.com/etcd-io/etcd/issues/15247). A restore is the end of it: it is
// the leader of a history.
func (m *model) goOn(history int, chosen func() bool) {
	m.do(func() {
		if m.leader != nil || m.history != history {
			return
		}
		var known []int64
		for id, l := range m.leases {
			if l.term < m.term {
				known = append(known, id)
			}
		}
		slices.Sort(known)
		for _, id := range known {
			if chosen() {
				m.end(id)
			}
		}
	})
}

func (m *model) restores() (n int) {
	m.do(func() { n = m.history })
	return n
}

func (m *model) backup() (b backup) {
	m.do(func() {
		b = backup{revision: m.revision, keys: make(map[string]*mvccpb.KeyValue), leases: make(map[int64]*modelLease)}
		for key, kv := range m.keys {
			b.keys[key] = kv
		}
		for id, l := range m.leases {
			b.leases[id] = l
		}
	})
	return b
}

// restore makes the cluster what it was; an empty backup is a wipe. bumped is
// --bump-revision: the revision does not run backwards. The term does.
func (m *model) restore(b backup, bumped bool) {
	m.do(func() {
		m.term = 1
		m.history++
		if m.revision += 1e6; !bumped {
			m.revision = max(b.revision, 1)
		}
		clear(m.keys)
		clear(m.leases)
		for key, kv := range b.keys {
			m.keys[key] = kv
		}
		for id, l := range b.leases {
			m.leases[id] = &modelLease{ttl: l.ttl, end: m.now() + l.ttl, term: m.term, by: l.by, restored: true}
		}
		m.deletes = slices.DeleteFunc(m.deletes, func(d deletion) bool { return d.revision > m.revision })
		m.tell()
	})
}

// tenures returns all records of a pool.
func (m *model) tenures(of string) (ts []pool.Tenure) {
	m.do(func() {
		ts = pool.ReadTenures(of, m.match([]byte(pool.TenuresKey(of)), []byte(pool.TenuresKey(of)+"\xff")))
	})
	return ts
}

// byHand changes one key as somebody with etcdctl does.
func (m *model) byHand(key, value string, remove bool) {
	m.do(func() {
		if remove {
			if m.keys[key] != nil {
				m.revision++
				m.remove([]string{key})
			}
			return
		}
		m.revision++
		m.write(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	})
}
