package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	consulAtOnce = 16
	// What comes within this time is written together: each write is one that three servers agree on and keep on disk.
	gatherTime = 20 * time.Millisecond
	// Consul takes 64 operations in one transaction; a guest is a node, a service and a check.
	gatherMost = 21
)

// consul puts guests into the catalog as their own agents would: a node of the child's name, its service, its check.
//
// Straight into the catalog, because a thousand agents in one process is what this vCenter is to spare, and because an
// entry made through some other agent would stand on that agent's node. The node has no serfHealth check: nodes that
// have one and are no member of the gossip are what Consul's leader removes.
type consul struct {
	url    string
	dc     string
	client *http.Client
	places chan struct{}
	coming chan registration
}

// registration is one guest's entry on its way into the catalog.
type registration struct {
	operations []map[string]any
	done       chan error
}

func newConsul(o options) *consul {
	transport := &http.Transport{MaxIdleConnsPerHost: consulAtOnce, MaxConnsPerHost: consulAtOnce}
	c := &consul{
		url: o.consul, dc: o.consulDC, client: &http.Client{Timeout: 30 * time.Second, Transport: transport},
		places: make(chan struct{}, consulAtOnce), coming: make(chan registration),
	}
	go c.gather()
	return c
}

// register one child with one check, which passes when the game has just proved that it works.
func (c *consul) register(who *identity, o options, works bool) error {
	if c.url == "" {
		return nil
	}
	status := "critical"
	if works {
		status = "passing"
	}
	address := hostPart(who.Address)
	id := fmt.Sprintf("forkyard:%s:%d", o.service, o.port)
	made := registration{done: make(chan error, 1), operations: []map[string]any{
		set("Node", map[string]any{"Node": who.Name, "ID": who.ConsulNodeID, "Address": address, "Datacenter": c.dc}),
		{"Service": map[string]any{"Verb": "set", "Node": who.Name, "Service": map[string]any{
			"ID": id, "Service": who.Service, "Address": address, "Port": o.port, "Tags": []string{},
			"Meta": map[string]string{"fork_id": who.ForkID, "child": who.Name},
		}}},
		set("Check", map[string]any{
			"Node": who.Name, "CheckID": "service:" + id, "Name": "Service '" + who.Service + "' check", "Status": status,
			"ServiceID": id, "ServiceName": who.Service, "Output": "as the guest itself found",
		}),
	}}
	c.coming <- made
	return <-made.done
}

func set(kind string, value map[string]any) map[string]any {
	return map[string]any{kind: map[string]any{"Verb": "set", kind: value}}
}

// gather writes what comes at about the same time in one transaction.
func (c *consul) gather() {
	for first := range c.coming {
		together := []registration{first}
		over := time.After(gatherTime)
	more:
		for len(together) < gatherMost {
			select {
			case next := <-c.coming:
				together = append(together, next)
			case <-over:
				break more
			}
		}
		go c.write(together)
	}
}

// write them all, or each by itself when one of them is refused: a guest must not fail for another's entry.
func (c *consul) write(together []registration) {
	var operations []map[string]any
	for _, one := range together {
		operations = append(operations, one.operations...)
	}
	err := c.put("/v1/txn?dc="+c.dc, operations)
	if err != nil && len(together) > 1 {
		for _, one := range together {
			c.write([]registration{one})
		}
		return
	}
	for _, one := range together {
		one.done <- err
	}
}

// deregister the child's node with all that is on it; one that is not there is as good.
func (c *consul) deregister(who *identity) {
	if c.url != "" {
		_ = c.put("/v1/catalog/deregister", map[string]any{"Datacenter": c.dc, "Node": who.Name})
	}
}

func (c *consul) put(path string, body any) error {
	c.places <- struct{}{}
	defer func() { <-c.places }()
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ask, err := http.NewRequest(http.MethodPut, c.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	answer, err := c.client.Do(ask)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<12))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", path, answer.Status, said)
	}
	return nil
}
