package main

import (
	"strconv"
	"sync/atomic"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var ports atomic.Int32

// portOf is the port of a distributed switch that a network card stands in or asks for; nil on other networks.
func portOf(card *types.VirtualEthernetCard) *types.DistributedVirtualSwitchPortConnection {
	if backing, ok := card.Backing.(*types.VirtualEthernetCardDistributedVirtualPortBackingInfo); ok {
		return &backing.Port
	}
	return nil
}

// givePort puts the card into a port of its own in its port group, as the switch does for a card that names none.
func givePort(card *types.VirtualEthernetCard) {
	backing, ok := card.Backing.(*types.VirtualEthernetCardDistributedVirtualPortBackingInfo)
	if !ok {
		return
	}
	number := ports.Add(1)
	own := *backing
	own.Port.PortKey, own.Port.ConnectionCookie = strconv.Itoa(int(number)), number
	card.Backing = &own
}

// checkPorts refuses a change that asks for a port other than its own: somebody stands in each that a client can know.
func checkPorts(vm *simulator.VirtualMachine, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	for _, change := range changes {
		asked, ok := change.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		port := portOf(asked.GetVirtualEthernetCard())
		if port == nil || port.PortKey == "" {
			continue
		}
		if vm != nil {
			if card := findCard(vm, asked.GetVirtualEthernetCard().Key); card != nil {
				if own := portOf(card); own != nil && own.PortKey == port.PortKey {
					continue
				}
			}
		}
		return &types.ResourceInUse{Type: "DistributedVirtualPort", Name: port.PortKey}
	}
	return nil
}

// findCard is the VM's network card of that key.
func findCard(vm *simulator.VirtualMachine, key int32) *types.VirtualEthernetCard {
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok && device.GetVirtualDevice().Key == key {
			return card.GetVirtualEthernetCard()
		}
	}
	return nil
}

// networkOf is the name of the port group that the VM's first card is in.
func (v *vcenter) networkOf(vm *simulator.VirtualMachine) string {
	card := findNIC(vm)
	if card == nil || portOf(card) == nil {
		return ""
	}
	ref := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: portOf(card).PortgroupKey}
	group, ok := v.registry.Get(ref).(*simulator.DistributedVirtualPortgroup)
	if !ok {
		return ""
	}
	return group.Name
}
