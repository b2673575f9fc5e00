import { DeliveryFailed } from '../events/endpoint-client.ts';
import { printResult, type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { configInForce } from './store-config.ts';

/** `entrepot notify`: tries an endpoint of notifications. */
export const notify: Command = {
  name: 'notify',
  summary: 'send a test event to an endpoint of notifications',
  description:
    'Sends one event of the kind test, in the format and with the headers and the signature that the configuration says, ' +
    'and shows how the endpoint answers. Events that wait for the endpoint are not sent with it. Without --config and ' +
    '$ENTREPOT_CONFIG it reads the configuration of the server that the same user runs on this machine, if any.',
  arguments: [{ name: '<endpoint>', description: 'its name in notifications.endpoints' }],
  options: [jsonOption('endpoint, id, status, ms'), CONFIG_OPTION],
  examples: [['entrepot notify ci', 'exit code 0 if the endpoint accepts the event']],
  run: async (input, io) => {
    const [name = ''] = input.arguments;
    const config = await configInForce(input, io);
    const { endpoints } = config.notifications;
    const endpoint = endpoints.find(each => each.name === name);
    if (endpoint === undefined) {
      const known = endpoints.map(each => each.name).join(', ') || 'none';
      throw new CommandError(`notifications.endpoints has no ${name}: there are ${known}`, EXIT.usage);
    }
    const { testEndpoint } = await import('../compose/event-delivery.ts');
    try {
      const { id, status, ms } = await testEndpoint(config, endpoint);
      printResult(
        input,
        io,
        { endpoint: name, id, status, ms },
        `${name}: accepted with ${status} in ${ms} ms\n`,
      );
    } catch (error) {
      if (error instanceof DeliveryFailed) throw new CommandError(`${name}: ${error.message}`);
      throw error;
    }
    return EXIT.done;
  },
};
