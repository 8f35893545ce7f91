// Reads a calendar as ical.js does, the parser of Thunderbird and Nextcloud, and
// writes each component's UID and SUMMARY, and the next occurrences of what recurs.
const path = require('path');
const load = import(path.join(process.env.NODE_MODULES, 'ical.js', 'dist', 'ical.es5.min.cjs'));
load.then(({ default: ICAL }) => {
  const calendar = new ICAL.Component(ICAL.parse(require('fs').readFileSync(0, 'utf8')));
  for (const zone of calendar.getAllSubcomponents('vtimezone')) ICAL.TimezoneService.register(zone);
  for (const kind of ['vtodo', 'vevent']) {
    for (const component of calendar.getAllSubcomponents(kind)) {
      const summary = component.getFirstPropertyValue('summary');
      const uid = component.getFirstPropertyValue('uid') + (component.hasProperty('recurrence-id') ? '-moved' : '');
      console.log(uid, Buffer.from(summary, 'utf8').toString('hex'));
      if (component.hasProperty('rrule') || component.hasProperty('rdate')) {
        const start = component.getFirstPropertyValue('dtstart');
        const expansion = new ICAL.RecurExpansion({ component, dtstart: start });
        const times = [];
        for (let i = 0; i < 30; i++) {
          const next = expansion.next();
          if (!next) break;
          times.push(next.toUnixTime());
        }
        console.log('occurs', uid, times.join(','));
      }
    }
  }
});
