package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A login has the token under which requests are made. etcd hashes the password at each login,
// which costs it 0.08 CPU-seconds (bcrypt-cost 10), and a fleet that logs in all at once keeps it
// busy for longer than a request lasts. A login that we give up costs etcd just as much, and has to
// be made again. So there is one login per token, made by whichever request wants it first; it has
// a time-out of its own, and each request waits for it as long as the request's own time lasts.
// After a failure, the next login comes later and later.
//
// Every request asks for a member that has a leader: one that is cut off from the others says so
// at once, instead of keeping us waiting.
type login struct {
	user      string
	password  func() (string, error)
	auth      pb.AuthClient
	ctx       context.Context // of the client
	connector *connector
	jitter    retry.Jitter

	mu       sync.Mutex
	token    string
	has      bool          // token is good, as far as we know; it is "" where etcd has no users
	answered time.Time     // when a request under it was last
	running  chan struct{} // closed when the one under way has ended; nil: none
	asking   bool          // it waits for etcd, and not for its turn
	err      error         // of the last
	failures int           // in a row that cost etcd something
	refused  string        // the password that was
}

// loginTime bounds a login. gRPC's pings find out within 13 s that a member is gone; one that is
// busy with the logins of a fleet needs its time.
const loginTime = time.Minute

// cheapLogin is how soon a login must have failed for etcd not to have hashed anything: nobody
// listens, or a member is cut off.
const cheapLogin = 50 * time.Millisecond

// tokenPatience is how long a token is kept under which nothing is answered. An etcd that was restored
// from a backup does not refuse one from before: it waits, in vain, until its log is as long as it was
// when the token was made.
const tokenPatience = 30 * time.Second

// errLoggingIn is the error of a request whose time ran out before there was a token.
var errLoggingIn = errors.New("log in to etcd")

func newLogin(user string, password func() (string, error), c *connector) *login {
	return &login{user: user, password: password, connector: c, jitter: retry.Randomly}
}

// underWay says whether etcd is at work on a login: one that waits for a connection was not sent yet.
func (l *login) underWay() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asking && l.connector.isHeard()
}

// unary is the interceptor of requests.
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if l.user == "" || method == pb.Auth_Authenticate_FullMethodName {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	for again := true; ; again = false {
		token, err := l.await(ctx)
		if err != nil {
			return err
		}
		err = invoke(withToken(ctx, token), method, req, reply, cc, opts...)
		refused := refusesToken(err)
		if refused || l.isSilent(ctx, err) {
			l.forget(token)
		}
		if !refused || !again {
			return err
		}
	}
}

// isSilent notes how a request under the token ended, and says whether etcd has been silent for too long.
func (l *login) isSilent(ctx context.Context, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.answered = time.Now()
	}
	return ctx.Err() != nil && time.Since(l.answered) > tokenPatience
}

// stream is the interceptor of streams, which have their token from the start.
func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if l.user == "" {
		return open(ctx, desc, cc, method, opts...)
	}
	token, err := l.await(ctx)
	if err != nil {
		return nil, err
	}
	s, err := open(withToken(ctx, token), desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &loggedIn{ClientStream: s, login: l, token: token}, nil
}

// A loggedIn is a stream that notices when its token is refused.
type loggedIn struct {
	grpc.ClientStream
	login *login
	token string
}

// RecvMsg implements grpc.ClientStream.
func (s *loggedIn) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if refusesToken(err) {
		s.login.forget(s.token)
	}
	return err
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// refusesToken says whether a request failed for lack of a good token.
func refusesToken(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// forget forgets a token that was refused, if it is still the current one.
func (l *login) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.token, l.has = "", false
	}
}

// await returns the token, and logs in for it if there is none.
func (l *login) await(ctx context.Context) (string, error) {
	l.mu.Lock()
	if l.has {
		defer l.mu.Unlock()
		return l.token, nil
	}
	if l.running == nil {
		l.running = make(chan struct{})
		go l.run(l.wait())
	}
	running, before := l.running, l.err
	l.mu.Unlock()

	select {
	case <-running:
	case <-ctx.Done():
		if before != nil {
			return "", before
		}
		return "", fmt.Errorf("%w: %w", errLoggingIn, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token, l.err
}

// wait returns how long to wait before the next login: the first comes at once.
// The caller holds mu.
func (l *login) wait() time.Duration {
	if l.failures == 0 {
		if l.err == nil {
			return 0
		}
		return 50*time.Millisecond + l.jitter(200*time.Millisecond)
	}
	d := time.Second << min(l.failures-1, 5)
	return d/4 + l.jitter(d)
}

// run logs in, after a delay.
func (l *login) run(wait time.Duration) {
	password, err := l.turn(wait)
	var token string
	began := time.Now()
	if err == nil {
		l.mu.Lock()
		l.asking = true
		l.mu.Unlock()
		token, err = l.authenticate(password)
	}
	cost := time.Since(began)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.has, l.err, l.asking = token, err == nil, err, false
	unreachable, _ := l.connector.why()
	switch {
	case err == nil:
		l.failures, l.refused, l.answered = 0, "", time.Now()
	case errors.Is(err, rpctypes.ErrAuthFailed):
		l.failures++
		l.refused = password
	case cost > cheapLogin && len(unreachable) == 0:
		l.failures++
	}
	if err != nil && !sameEverywhere(err) {
		l.connector.moveOn(began)
	}
	close(l.running)
	l.running = nil
}

// turn waits for its turn to log in, and returns the password. One that differs from what was
// refused is tried at once.
func (l *login) turn(wait time.Duration) (string, error) {
	for {
		password, err := l.password()
		if err != nil {
			err = fmt.Errorf("read the password of etcd user %s: %w", l.user, &filesError{err})
		}
		if changed := err == nil && l.refused != "" && password != l.refused; wait <= 0 || changed {
			return password, err
		}
		step := min(wait, time.Second)
		if !retry.Sleep(l.ctx, step) {
			return "", l.ctx.Err()
		}
		wait -= step
	}
}

func (l *login) authenticate(password string) (string, error) {
	ctx, cancel := context.WithTimeout(l.ctx, loginTime)
	defer cancel()
	resp, err := l.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: l.user, Password: password})
	switch err = rpctypes.Error(err); {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("log in to etcd as %s: %w", l.user, err)
	}
	return resp.Token, nil
}
