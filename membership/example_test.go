package membership_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// connect returns a client of an etcd of its own. In a program, the endpoints
// come from the configuration.
func connect() (client *etcd.Client, done func()) {
	dir, err := os.MkdirTemp("", "membership")
	if err != nil {
		log.Fatal(err)
	}
	server, err := devetcd.Start(dir)
	if err != nil {
		log.Fatal(err)
	}
	client, err = etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		log.Fatal(err)
	}
	return client, func() {
		client.Close()
		server.Close()
		os.RemoveAll(dir)
	}
}

func ExampleJoin() {
	etcdclient, done := connect()
	defer done()
	ctx := context.Background()

	IDs := membership.PrefixedNumerics("/example/", 3)
	lease, err := etcdclient.Grant(ctx, 15)
	if err != nil {
		log.Fatal(err)
	}
	for range 4 {
		member, err := membership.Join(etcdclient.Client, ctx, lease.ID, "homer", IDs)
		if err == membership.ErrNoFreeName {
			fmt.Println("all claimed")
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(member.Key, member.Value)
	}
	// Output:
	// /example/1 homer
	// /example/2 homer
	// /example/3 homer
	// all claimed
}

func ExampleMembers() {
	etcdclient, done := connect()
	defer done()
	ctx := context.Background()

	IDs := membership.Mountains()
	lease, err := etcdclient.Grant(ctx, 15)
	if err != nil {
		log.Fatal(err)
	}
	for _, who := range []string{"homer", "marge"} {
		if _, err := membership.Join(etcdclient.Client, ctx, lease.ID, who, IDs); err != nil {
			log.Fatal(err)
		}
	}
	members, err := membership.Members(etcdclient.Client, IDs)
	if err != nil {
		log.Fatal(err)
	}
	for _, member := range members {
		fmt.Println(member.Key, member.Value)
	}
	// Output:
	// Denali homer
	// MtLogan marge
}

func ExampleHolder() {
	client, done := connect()
	defer done()

	cfg := membership.DefaultConfig()
	cfg.Owner = "foo-ns31"
	holder, err := membership.NewHolder(client, cfg, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- holder.Run(ctx) }()

	changed := holder.Changed()
	fmt.Println(holder.State())
	<-changed
	if claim, ok := holder.Current(); ok {
		fmt.Println(claim.Name(), holder.Owner(), holder.State())
	}

	stop() // when nothing is sent under the name any more
	fmt.Println(<-ended, holder.State())
	// Output:
	// claiming
	// Denali foo-ns31 held
	// <nil> released
}

func ExampleMountains() {
	fmt.Println(membership.Mountains()[:3])
	// Output: [Denali MtLogan PicodeOrizaba]
}

func ExamplePrefixedNumerics() {
	names := membership.PrefixedNumerics("web-", 200)
	fmt.Println(names[0], names[199])
	// Output: web-1 web-200
}
