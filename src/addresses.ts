import { isIPv4, isIPv6 } from 'node:net'
import { ValidationError } from './errors.ts'

/**
 * The part of an IP address that stands for one caller: an IPv4 address, also one that is written as IPv6; the /64
 * of an IPv6 address, in which a caller may have every one.
 *
 * @throws {ValidationError} for what is no address.
 */
export function addressKey(address: string): string {
  if (typeof address === 'string' && isIPv4(address)) return address
  if (typeof address !== 'string' || !isIPv6(address)) {
    throw new ValidationError('address', 'must be an IPv4 or IPv6 address')
  }
  const groups = groupsOf(address.replace(/%.*$/, ''))
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return groups
      .slice(6)
      .flatMap((group) => [group >> 8, group & 0xff])
      .join('.')
  }
  return `${groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':')}::/64`
}

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): number[] {
  const hex = address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...bytes: string[]) => {
    const [a, b, c, d] = bytes.map(Number)
    return `${(((a ?? 0) << 8) | (b ?? 0)).toString(16)}:${(((c ?? 0) << 8) | (d ?? 0)).toString(16)}`
  })
  const [front = [], back = []] = hex
    .split('::')
    .map((half) => half.split(':').filter((group) => group !== ''))
  const zeros = Array.from({ length: 8 - front.length - back.length }, () => '0')
  return [...front, ...zeros, ...back].map((group) => Number.parseInt(group, 16))
}
