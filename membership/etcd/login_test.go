package etcd

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A restored etcd keeps who comes with a token from before waiting for as long as they like. It has
// a new login in the end; an etcd that is slow has none.
func TestTokenFromBeforeARestore(t *testing.T) {
	for name, answersAgain := range map[string]time.Duration{"restored": time.Hour, "slow": tokenPatience - 5*time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connector, err := newConnector([]string{"127.0.0.1:1"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				users := &users{}
				l := newLogin("prefixproxy", func() (string, error) { return "p", nil }, connector)
				l.auth, l.ctx = users, t.Context()
				var silentUntil time.Time // to the first token
				request := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					return l.unary(ctx, pb.KV_Range_FullMethodName, nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
						if md, _ := metadata.FromOutgoingContext(ctx); time.Now().Before(silentUntil) && md.Get(rpctypes.TokenFieldNameGRPC)[0] == "1" {
							<-ctx.Done()
							return ctx.Err()
						}
						return nil
					})
				}
				if err := request(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				silentUntil = began.Add(answersAgain)
				for request() != nil {
					if time.Since(began) > tokenPatience+5*time.Second {
						t.Fatal("the token is kept")
					}
				}
				if want := map[bool]int{false: 1, true: 2}[name == "restored"]; users.logins != want {
					t.Errorf("%d logins, want %d", users.logins, want)
				}
			})
		})
	}
}

// users is an etcd whose n-th token is n.
type users struct {
	pb.AuthClient
	logins int
}

func (u *users) Authenticate(context.Context, *pb.AuthenticateRequest, ...grpc.CallOption) (*pb.AuthenticateResponse, error) {
	u.logins++
	return &pb.AuthenticateResponse{Token: string(rune('0' + u.logins))}, nil
}

// A login that waits for a member which accepts the connection and says nothing was not sent: it
// keeps nobody from moving on to another member, and is not to blame.
func TestLoginToASilentMember(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := New(Config{Endpoints: []string{silent.Addr().String(), "localhost:1"}, Username: "prefixproxy", Password: func() (string, error) { return "p", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	slices.SortFunc(c.connector.endpoints, func(a, b *url.URL) int { return cmp.Compare(b.Port(), a.Port()) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the login has its own time
	defer cancel()
	failed := make(chan error, 1)
	go func() { _, err := c.Get(ctx, "k"); failed <- err }()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the connection is in use
		t.Fatal(err)
	}
	if err = c.Failed(<-failed, time.Now()); !strings.Contains(err.Error(), ": no answer in time: ") {
		t.Errorf("got %v, want no answer in time", err)
	}
	if !c.connector.link.ended {
		t.Error("the client stays with the silent member")
	}
}
