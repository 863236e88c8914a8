package main

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	requestKey = "guestinfo.forkyard.request"
	answerKey  = "guestinfo.forkyard.answer"
)

// guestState is what a guest remembers, and so what a fork of it wakes up with.
type guestState struct {
	agent   string
	handled string
	ticks   *clock
}

// identity is what forkyard/wire.py calls so; what we need of it.
type identity struct {
	ForkID       string   `json:"fork_id"`
	RequestID    string   `json:"request_id"`
	Service      string   `json:"service"`
	Name         string   `json:"name"`
	MAC          string   `json:"mac"`
	Address      string   `json:"address"`
	Gateway      *string  `json:"gateway"`
	MachineID    string   `json:"machine_id"`
	ConsulNodeID string   `json:"consul_node_id"`
	ConsulJoin   []string `json:"consul_join"`
	Datacenter   string   `json:"datacenter"`
	WallClock    float64  `json:"wall_clock"`
	Seed         string   `json:"seed"`
}

type request struct {
	ID       string          `json:"id"`
	Verb     string          `json:"verb"`
	Identity json.RawMessage `json:"identity"`
}

// guest is one running VM's inside: one goroutine, and an HTTP server once it has its network.
type guest struct {
	v    *vcenter
	vm   *simulator.VirtualMachine
	wake chan struct{}
	done chan struct{}

	mutex    sync.Mutex
	state    guestState
	identity *identity
	report   map[string]any
	waiting  *request
	game     *game
	trouble  trouble
	locked   bool
	ended    bool
}

// guests are all that run.
type guests struct {
	v      *vcenter
	consul *consul
	mutex  sync.Mutex
	all    map[types.ManagedObjectReference]*guest
}

func newGuests(v *vcenter) *guests {
	return &guests{v: v, consul: newConsul(v.options), all: map[types.ManagedObjectReference]*guest{}}
}

// begin lets the VM's guest live: from *woken*, its parent's state, or as one that has booted.
func (g *guests) begin(vm *simulator.VirtualMachine, woken *guestState) {
	host := ""
	if on := g.v.hostOf(vm); on != nil {
		host = on.Name
	}
	made := &guest{v: g.v, vm: vm, wake: make(chan struct{}, 1), done: make(chan struct{}), trouble: g.v.rules.troubleOf(host)}
	made.state = guestState{agent: "waiting", ticks: newClock()}
	if woken != nil {
		if made.trouble.plugged {
			plugIn(vm)
		}
		made.state = *woken
		made.state.ticks = woken.ticks.fork()
	} else {
		made.passOverFreeze()
	}
	g.mutex.Lock()
	if old := g.all[vm.Self]; old != nil {
		go old.end()
	}
	g.all[vm.Self] = made
	g.mutex.Unlock()
	if isFrozen(vm) {
		made.state.agent = "quiesced"
		made.state.ticks.pause()
		return
	}
	go made.live()
	made.poke()
}

func (g *guests) get(ref types.ManagedObjectReference) *guest {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.all[ref]
}

func (g *guests) poke(ref types.ManagedObjectReference) {
	if found := g.get(ref); found != nil {
		found.poke()
	}
}

// state is a copy of what the guest knows now; nil when there is none.
func (g *guests) state(ref types.ManagedObjectReference) *guestState {
	found := g.get(ref)
	if found == nil {
		return nil
	}
	found.mutex.Lock()
	defer found.mutex.Unlock()
	state := found.state
	return &state
}

// stop the guest's clock and its thread: its VM is frozen.
func (g *guests) stop(ref types.ManagedObjectReference) {
	if found := g.get(ref); found != nil {
		found.mutex.Lock()
		found.state.ticks.pause()
		found.mutex.Unlock()
		found.finish()
	}
}

func (g *guests) end(ref types.ManagedObjectReference) {
	g.mutex.Lock()
	found := g.all[ref]
	delete(g.all, ref)
	g.mutex.Unlock()
	if found != nil {
		go found.end()
	}
}

func (g *guests) endAll() {
	g.mutex.Lock()
	all := g.all
	g.all = map[types.ManagedObjectReference]*guest{}
	g.mutex.Unlock()
	var ending sync.WaitGroup
	for _, one := range all {
		ending.Add(1)
		go func() { defer ending.Done(); one.end() }()
	}
	ending.Wait()
}

func (g *guest) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *guest) finish() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if !g.ended {
		g.ended = true
		close(g.done)
	}
}

// end as a machine whose power is gone: nothing answers any more, and its registration goes.
func (g *guest) end() {
	g.finish()
	g.mutex.Lock()
	game := g.game
	g.game = nil
	g.mutex.Unlock()
	if game != nil {
		game.close()
		g.v.guests.consul.deregister(game.identity)
	}
}

func (g *guest) live() {
	for {
		select {
		case <-g.done:
			return
		case <-g.wake:
			g.look()
		}
	}
}

// seen is one look at what the host has set.
type seen struct {
	request   string
	mac       string
	connected bool
}

func (g *guest) observe() seen {
	var now seen
	g.v.context().WithLock(g.vm, func() {
		for _, option := range g.vm.Config.ExtraConfig {
			if value := option.GetOptionValue(); value.Key == requestKey {
				now.request, _ = value.Value.(string)
			}
		}
		if card := findNIC(g.vm); card != nil {
			now.mac = card.MacAddress
			now.connected = card.Connectable != nil && card.Connectable.Connected
		}
	})
	return now
}

func (g *guest) look() {
	now := g.observe()
	g.followLink(now.connected)
	if g.waiting != nil && now.connected {
		asked := g.waiting
		g.waiting = nil
		g.answer(asked.ID, g.network())
	}
	var asked request
	if now.request == "" || json.Unmarshal([]byte(now.request), &asked) != nil || asked.ID == g.state.handled {
		return
	}
	g.mutex.Lock()
	g.state.handled = asked.ID
	g.mutex.Unlock()
	if g.trouble.silent {
		return
	}
	if asked.Verb == "network" && !now.connected {
		g.waiting = &asked
		return
	}
	answer := g.handle(&asked, now)
	g.answer(asked.ID, answer)
	if asked.Verb == "freeze" && answer["ok"] == true {
		g.v.freeze(g.vm)
	}
}

// passOverFreeze as a guest does that has just booted: that request was said to the machine before its reboot.
func (g *guest) passOverFreeze() {
	var asked request
	if json.Unmarshal([]byte(g.observe().request), &asked) == nil && asked.Verb == "freeze" {
		g.state.handled = asked.ID
	}
}

// followLink unplugs the game from its network, and plugs it in again, as the NIC says.
func (g *guest) followLink(connected bool) {
	g.mutex.Lock()
	game := g.game
	g.mutex.Unlock()
	if game == nil || game.isUp() == connected {
		return
	}
	if connected {
		_ = game.listen()
	} else {
		game.unplug()
	}
}

func (g *guest) handle(asked *request, now seen) map[string]any {
	switch asked.Verb {
	case "hello":
		var fork any
		if g.identity != nil {
			fork = g.identity.ForkID
		}
		return map[string]any{"ok": true, "state": g.state.agent, "fork_id": fork, "agent": "1"}
	case "freeze":
		if g.state.agent != "quiesced" {
			return failed("the agent is " + g.state.agent + ", not quiesced")
		}
		if g.trouble.unfreezable {
			return failed("not frozen, as was set")
		}
		return map[string]any{"ok": true, "state": "quiesced"}
	case "quiesce":
		if g.state.agent != "waiting" && g.state.agent != "quiesced" {
			return failed("the agent is " + g.state.agent + ", not waiting or quiesced")
		}
		g.mutex.Lock()
		g.state.agent = "quiesced"
		g.state.ticks.pause()
		g.mutex.Unlock()
		return map[string]any{"ok": true, "state": "quiesced"}
	case "identify":
		return g.identify(asked.Identity, now.mac)
	case "network":
		return g.network()
	}
	return failed("'" + asked.Verb + "': no such verb; there are hello, quiesce, freeze, identify, network")
}

func failed(text string) map[string]any {
	return map[string]any{"ok": false, "error": text}
}

// network goes up: only now does the game listen, and only when it answers does Consul hear of it.
func (g *guest) network() map[string]any {
	if g.state.agent != "identified" {
		return failed("the agent is " + g.state.agent + ", not identified")
	}
	g.mutex.Lock()
	plays := g.game != nil
	g.mutex.Unlock()
	if !plays {
		made := newGame(g.identity, g.v.options.port, g.state.ticks)
		made.sick = g.trouble.sick
		if err := made.listen(); err != nil {
			return failed("the address could not be used: " + err.Error())
		}
		if err := g.v.guests.consul.register(g.identity, g.v.options, made.proves()); err != nil {
			made.close()
			return failed("Consul: " + err.Error())
		}
		g.mutex.Lock()
		ended := g.ended
		if !ended {
			g.game = made
		}
		g.mutex.Unlock()
		if ended {
			made.close()
			g.v.guests.consul.deregister(g.identity)
		}
	}
	return map[string]any{"ok": true, "addresses": []string{hostPart(g.identity.Address)}}
}

// answer sets one guestinfo value from inside; the host sees it in the VM's extraConfig.
func (g *guest) answer(id string, answer map[string]any) {
	answer["id"] = id
	text, err := json.Marshal(answer)
	if err != nil {
		return
	}
	time.Sleep(g.v.rules.delay("guest", "").total)
	ctx := g.v.context()
	ctx.WithLock(g.vm, func() {
		config := types.VirtualMachineConfigInfo{ExtraConfig: g.vm.Config.ExtraConfig}
		value := &types.OptionValue{Key: answerKey, Value: string(text)}
		setExtraConfig(&config, []types.BaseOptionValue{value})
		ctx.Update(g.vm, []types.PropertyChange{{Name: "config.extraConfig", Val: config.ExtraConfig}})
	})
}
